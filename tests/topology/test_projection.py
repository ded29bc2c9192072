"""Maps: the tree and the loops are those of the full space, a flat cloud loses nothing, several share their axes."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from mechsteer.errors import DataError, NonFiniteError
from mechsteer.results import from_json, to_json
from mechsteer.topology import summarize, trajectory_maps


def flat_ring(n=20, d=6):
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((d, 2)))[0].T
    return torch.from_numpy(
        np.column_stack([np.cos(angles), np.sin(angles)]) @ axes + np.arange(d)
    )  # not at the origin


def test_a_flat_cloud_keeps_its_distances():
    (ring,) = trajectory_maps({"ring": flat_ring()}, {"ring": [f"t{i}" for i in range(20)]})
    np.testing.assert_allclose(pdist(ring.points), pdist(flat_ring().numpy()), atol=1e-9)
    assert ring.explained == pytest.approx(1.0)
    assert len(ring.loops) == 1
    assert set(ring.loops[0].edges.ravel().tolist()) == set(range(20))
    assert ring.tokens[3] == "t3"
    assert from_json(type(ring), to_json(ring)) == ring


def test_bars_are_those_of_the_full_space():
    cloud = torch.from_numpy(np.random.default_rng(1).standard_normal((25, 9)))
    (one,) = trajectory_maps({"": cloud}, n_loops=3)
    summary = summarize(cloud)
    np.testing.assert_allclose(one.tree_lengths, summary.h0.bars[:, 1], rtol=1e-9)
    longest = np.sort(summary.h1.bars[:, 1] - summary.h1.bars[:, 0])[::-1][:3]
    np.testing.assert_allclose([loop.lifetime for loop in one.loops], longest, rtol=1e-4)
    assert one.explained < 0.9


def test_several_share_their_axes():
    before = torch.from_numpy(np.random.default_rng(2).standard_normal((10, 4)))
    shift = torch.tensor([30.0, 0, 0, 0], dtype=torch.float64)
    one, other = trajectory_maps({"before": before, "after": before + shift})
    moved = other.points - one.points
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-9)
    assert np.linalg.norm(moved[0]) == pytest.approx(30, rel=0.01)


def test_long_trajectories_are_thinned_with_their_tokens():
    (one,) = trajectory_maps({"x": torch.randn(200, 3)}, {"x": [str(i) for i in range(200)]})
    assert len(one.points) == len(one.tokens) == 96
    assert (one.tokens[0], one.tokens[-1]) == ("0", "199")
    (line,) = trajectory_maps({"x": torch.arange(5.0)[:, None]})
    assert not line.points[:, 1].any()


def test_refusals():
    with pytest.raises(DataError, match="no trajectory to draw"):
        trajectory_maps({})
    with pytest.raises(DataError, match="3 points and 2 tokens"):
        trajectory_maps({"x": torch.randn(3, 2)}, {"x": ["a", "b"]})
    with pytest.raises(NonFiniteError, match="point 1"):
        trajectory_maps({"x": torch.tensor([[0.0], [torch.inf]])})
