"""Directions that separate pairs: planted ones are found, projections are what they say."""

from __future__ import annotations

import pytest
import torch

from mechsteer.directions import Separating, separating_directions
from mechsteer.errors import ConfigError, DataError, ShapeError

D = 12


def planted(n=200, noise=0.3, seed=0):
    """Differences along the first axis, with a louder second axis that points either way."""
    generator = torch.Generator().manual_seed(seed)
    d = noise * torch.randn(n, D, generator=generator, dtype=torch.float64)
    d[:, 0] += 1.0
    d[:, 1] += 3.0 * torch.randn(n, generator=generator, dtype=torch.float64)
    return d


@pytest.mark.parametrize("kind", ["mean_difference", "top_aligned"])
def test_the_axis_of_the_mean_is_found_beside_a_louder_one(kind):
    found = separating_directions(planted(), Separating(kind=kind))
    assert torch.equal(found, found[:1].expand_as(found))
    assert found[0, 0] > 0.9
    torch.testing.assert_close(found.norm(dim=1), torch.ones(200, dtype=torch.float64))


def test_the_first_axis_is_the_loudest_and_lies_on_the_side_of_the_mean():
    d = planted()
    found = separating_directions(d, Separating(kind="pairwise_pca"))[0]
    assert abs(found[1]) > 0.95
    assert found @ d.mean(0) > 0
    flipped = separating_directions(-d, Separating(kind="pairwise_pca"))[0]
    torch.testing.assert_close(flipped, -found)


def test_own_and_thresholded_are_each_pairs():
    d = planted(20)
    own = separating_directions(d, Separating(kind="own"))
    torch.testing.assert_close(own, d / d.norm(dim=1, keepdim=True))
    everything = separating_directions(d, Separating(kind="thresholded", threshold=0.0))
    torch.testing.assert_close(everything, own)
    axes = torch.linalg.svd(d, full_matrices=False).Vh
    one = separating_directions(d, Separating(kind="thresholded", threshold=1.0))
    best = (d @ axes.T).abs().argmax(1)
    torch.testing.assert_close((one @ axes.T).abs().amax(1), torch.ones(20, dtype=torch.float64))
    assert torch.equal((one @ axes.T).abs().argmax(1), best)
    some = separating_directions(d, Separating(kind="thresholded", threshold=0.5))
    kept = (d @ axes.T).abs() >= 0.5 * d.norm(dim=1, keepdim=True)
    assert not (some @ axes.T)[~kept & (torch.arange(D) != best[:, None])].abs().gt(1e-9).any()


def test_a_projection_before_differs_from_one_after_for_axes_and_not_for_means():
    d = planted()
    rows = torch.linalg.qr(torch.randn(D, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q.T
    for kind in ("mean_difference", "pairwise_pca"):
        before, after = (
            separating_directions(d, Separating(kind=kind, projection=when), rows)[0] for when in ("before", "after")
        )
        for found in (before, after):
            torch.testing.assert_close(found @ rows.T @ rows, found, rtol=1e-10, atol=1e-12)
        assert torch.allclose(before, after) == (kind == "mean_difference")
    coordinates = d @ rows.T
    expected = torch.linalg.svd(coordinates, full_matrices=False).Vh[0] @ rows
    found = separating_directions(d, Separating(kind="pairwise_pca"), rows)[0]
    assert abs(found @ expected) == pytest.approx(1.0)


def test_what_gives_no_direction_is_refused():
    equal = planted()
    equal[3] = 0
    with pytest.raises(DataError, match="some pairs have no difference"):
        separating_directions(equal, Separating(kind="own"))
    with pytest.raises(DataError, match="some pairs have no difference"):
        separating_directions(torch.zeros(3, D))
    with pytest.raises(ShapeError, match="not orthonormal"):
        separating_directions(planted(), rows=torch.ones(2, D))
    with pytest.raises(ShapeError, match=r"rows are \(2, 3\)"):
        separating_directions(planted(), rows=torch.eye(3)[:2])
    for options in ({"kind": "pca"}, {"projection": "never"}, {"measure": "q"}, {"threshold": 2.0}, {"n_top": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} "):
            Separating(**options)
