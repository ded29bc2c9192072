"""Meaningless bases have the geometry of a basis, and nothing else of it."""

from __future__ import annotations

import pytest
import torch

import mechsteer as ms
from mechsteer.bases import Basis, meaningless
from mechsteer.errors import ConfigError


def random_rows(n: int, d: int = 24) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["rotated", "gaussian", "shuffled"])
def test_orthonormal_bases_stay_orthonormal(kind):
    basis = ms.bases.from_directions(torch.linalg.qr(random_rows(24))[0][:10])
    drawn = list(meaningless(basis, 3, seed=0, kind=kind))
    for null in drawn:
        torch.testing.assert_close(null.directions @ null.directions.T, torch.eye(10, dtype=torch.float64))
        assert float((null.directions @ basis.directions.T).abs().max()) < 0.95
    assert not torch.equal(drawn[0].directions, drawn[1].directions)


def test_a_rotated_dictionary_has_its_very_cosines_and_dead_rows():
    rows = random_rows(60)
    rows[7] = 0
    rows[3] = rows[2] + 0.1 * rows[4]  # cosines that no random dictionary has
    norms = rows.norm(dim=1, keepdim=True)
    basis = Basis(torch.where(norms > 0, rows / norms, 0), tuple(map(str, range(60))), {"kind": "sae"})
    (null,) = meaningless(basis, 1, seed=0)
    torch.testing.assert_close(null.directions @ null.directions.T, basis.directions @ basis.directions.T)
    for kind in ("gaussian", "shuffled"):
        (other,) = meaningless(basis, 1, seed=0, kind=kind)
        assert other.directions.norm(dim=1).nonzero()[:, 0].tolist() == [i for i in range(60) if i != 7]
        assert abs(float(other.directions[3] @ other.directions[2])) < 0.9
    (shuffled,) = meaningless(basis, 1, seed=0, kind="shuffled")
    torch.testing.assert_close(shuffled.directions.sort(dim=1)[0], basis.directions.sort(dim=1)[0])
    assert null.source["of"] == {"kind": "sae"}


def test_draws_are_a_function_of_the_seed_and_evenly_distributed():
    basis = ms.bases.from_directions(torch.eye(3, dtype=torch.float64)[:1])
    first, again = ([n.directions for n in meaningless(basis, 400, seed=1)] for _ in range(2))
    assert all(map(torch.equal, first, again))
    points = torch.cat(first)
    torch.testing.assert_close(points.mean(0), torch.zeros(3, dtype=torch.float64), atol=0.1, rtol=0)
    torch.testing.assert_close(points.T @ points / 400, torch.eye(3, dtype=torch.float64) / 3, atol=0.06, rtol=0)
    with pytest.raises(ConfigError, match="kind 'random'"):
        meaningless(basis, 1, seed=0, kind="random")
