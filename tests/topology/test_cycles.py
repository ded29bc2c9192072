"""Representative cycles: the bars are ripser's, each cycle is closed, born with its longest edge, and around what it says."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mechsteer.errors import ShapeError
from mechsteer.signals.spanning import mst_edges
from mechsteer.topology import h1_bars, loops, spanning_tree


def distances_of(points):
    return cdist(points, points)


def ring(n, centre, radius=1.0):
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.column_stack([np.cos(angles), np.sin(angles)]) * radius + centre


def cloud(seed, n=24, d=3):
    return np.random.default_rng(seed).standard_normal((n, d))


@pytest.mark.parametrize("seed", range(4))
def test_bars_are_ripsers_and_cycles_are_closed(seed):
    distances = distances_of(cloud(seed))
    found = loops(distances)
    bars = h1_bars(distances)
    ours = sorted((loop.birth, loop.death) for loop in found)
    np.testing.assert_allclose(ours, sorted(map(tuple, bars)), rtol=1e-5)
    for loop in found:
        assert (np.bincount(loop.edges.ravel()) % 2 == 0).all()
        assert len({tuple(edge) for edge in loop.edges.tolist()}) == len(loop.edges) >= 3
        lengths = distances[loop.edges[:, 0], loop.edges[:, 1]]
        assert lengths.max() == loop.birth


def test_each_of_two_rings_has_its_own_cycle():
    points = np.concatenate([ring(12, (0, 0)), ring(9, (20, 0))])
    large, small = loops(distances_of(points), most=2)
    assert set(large.edges.ravel().tolist()) == set(range(12))
    assert set(small.edges.ravel().tolist()) == set(range(12, 21))
    assert large.birth == pytest.approx(2 * np.sin(np.pi / 12))


def test_the_tree_has_the_lengths_of_the_bars_duplicates_included():
    points = np.concatenate([cloud(5), cloud(5)[:3]])
    distances = distances_of(points)
    edges = spanning_tree(distances)
    assert edges.shape == (26, 2)
    np.testing.assert_allclose(distances[edges[:, 0], edges[:, 1]], mst_edges(points[None])[0], atol=1e-9)
    assert spanning_tree(np.zeros((1, 1))).shape == (0, 2)


def test_few_points_have_no_loop_and_many_are_refused():
    assert loops(distances_of(cloud(0, n=3))) == ()
    assert loops(distances_of(cloud(0, n=2))) == ()
    with pytest.raises(ShapeError, match="at most 160 points"):
        loops(np.zeros((161, 161)))
    with pytest.raises(ShapeError, match=r"\[2, 3\]"):
        spanning_tree(np.zeros((2, 3)))
