"""Matching pursuit against scikit-learn's, and on codes that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from mechsteer.attribution import matching_pursuit, pursuit


def dictionary(n_dirs: int, d_model: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(n_dirs, d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def dense(atoms: torch.Tensor, values: torch.Tensor, n_dirs: int) -> torch.Tensor:
    out = torch.zeros(len(atoms), n_dirs, dtype=values.dtype)
    return out.scatter_add_(1, atoms.clamp(min=0), values.where(atoms >= 0, 0))


@pytest.mark.parametrize(("n_dirs", "d_model", "k"), [(80, 16, 1), (80, 16, 5), (40, 16, 16), (10, 24, 7)])
def test_equals_scikit_learn(n_dirs, d_model, k, monkeypatch):
    rows = dictionary(n_dirs, d_model)
    targets = torch.randn(9, d_model, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    expected = orthogonal_mp(rows.numpy().T, targets.numpy().T, n_nonzero_coefs=k)
    got = dense(*matching_pursuit(targets, rows, k), n_dirs)
    np.testing.assert_allclose(got.numpy(), expected.T, rtol=1e-8, atol=1e-10)
    monkeypatch.setattr(pursuit, "_ENTRIES", 4 * max(n_dirs, k * d_model))  # in chunks of four targets
    assert torch.equal(dense(*matching_pursuit(targets, rows, k), n_dirs), got)


def test_stops_where_nothing_is_left():
    rows = dictionary(50, 20)
    exact = 2.0 * rows[[7]] - 3.0 * rows[[31]]
    atoms, values = matching_pursuit(torch.cat([exact, torch.zeros(1, 20, dtype=torch.float64)]), rows, 20)
    code = dense(atoms, values, 50)
    assert set(atoms[0].tolist()) == {7, 31, -1}
    torch.testing.assert_close(code[0, [7, 31]], torch.tensor([2.0, -3.0], dtype=torch.float64))
    assert bool((atoms[1] == -1).all())
    assert float(code[1].abs().sum()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stops_where_what_is_left_lies_along_no_direction(dtype):
    """A target that leaves the directions' span: what rounding leaves along them is no further atom."""
    generator = torch.Generator().manual_seed(3)
    frame = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))[0].to(dtype)
    rows = frame[:8]
    targets = 2.0 * rows[torch.arange(64) % 8] + 3.0 * torch.randn(64, 8, generator=generator).to(dtype) @ frame[8:]
    atoms, values = matching_pursuit(targets, rows, 8)
    assert torch.equal(atoms[:, 0], torch.arange(64) % 8)
    torch.testing.assert_close(values[:, 0], torch.full((64,), 2.0, dtype=dtype))
    assert bool((atoms[:, 1:] == -1).all())
    assert float(values[:, 1:].abs().sum()) == 0


def test_a_direction_that_comes_twice_is_taken_once():
    rows = dictionary(3, 8)[[0, 0, 1, 2]]
    atoms, values = matching_pursuit(rows[[0]] + 0.5 * rows[[2]] + 0.1 * rows[[3]], rows, 4)
    torch.testing.assert_close(
        dense(atoms, values, 4) @ rows, rows[[0]] + 0.5 * rows[[2]] + 0.1 * rows[[3]], rtol=1e-10, atol=1e-12
    )
    assert len({0, 1} & set(atoms[0].tolist())) == 1


def test_nearly_equal_directions_stay_a_least_squares_fit():
    """Atoms 1e-3 apart, in float32: one pass of Gram-Schmidt would lose the orthogonality."""
    noise = torch.randn(60, 24, generator=torch.Generator().manual_seed(1))
    rows = torch.nn.functional.normalize(torch.ones(24) + 1e-3 * noise, dim=1)
    target = torch.randn(1, 24, generator=torch.Generator().manual_seed(2))
    atoms, values = matching_pursuit(target, rows, 12)
    chosen = rows[atoms[0]].double()
    best = torch.linalg.lstsq(chosen.T, target.double().T).solution
    left, least = (target.double() - c @ chosen for c in (values.double(), best.T))
    assert float(left.norm()) == pytest.approx(float(least.norm()), rel=1e-3)
