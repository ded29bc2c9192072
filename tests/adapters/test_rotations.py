"""Rotations and scales: Cayley's algebra, the angle bound, modes of singular values; all in float64."""

from __future__ import annotations

import math

import pytest
import torch

from mechsteer.adapters.rotations import angles, block_diagonal, bounded, cayley, check_blocks, skew
from mechsteer.adapters.scales import LINEAR, scaled
from mechsteer.errors import ConfigError

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
COEFFS = (-2.0, -1.0, -0.3, 0.7, 1.0, 5.0)


def p_of(*shape: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 5, 24])
@pytest.mark.parametrize("coeff", COEFFS)
def test_cayley_is_orthogonal_and_its_inverse_is_minus_c(n, coeff):
    a, eye = skew(p_of(3, n, n)), torch.eye(n, dtype=torch.float64).expand(3, n, n)
    r = cayley(a, coeff)
    torch.testing.assert_close(r @ r.mT, eye, **CLOSE)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(3, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close(cayley(a, -coeff), r.mT, **CLOSE)
    torch.testing.assert_close(cayley(-a, coeff), r.mT, **CLOSE)
    assert torch.equal(cayley(a, 0.0), eye)


def test_a_plane_turns_by_twice_the_arctangent():
    a = skew(torch.tensor([[0.0, 0.6], [0.0, 0.0]], dtype=torch.float64))
    for coeff in COEFFS:
        theta = 2 * math.atan(coeff * 0.6 / 2)
        expected = torch.tensor(
            [[math.cos(theta), math.sin(theta)], [-math.sin(theta), math.cos(theta)]], dtype=torch.float64
        )
        torch.testing.assert_close(cayley(a, coeff), expected, **CLOSE)
        assert angles(cayley(a, coeff))[0].item() == pytest.approx(abs(theta), rel=1e-9)


def test_blocks_turn_as_the_block_diagonal_matrix_does():
    a = bounded(skew(p_of(4, 3, 3, size=2.0)), 0.8)
    whole = bounded(block_diagonal(skew(p_of(4, 3, 3, size=2.0))), 0.8)
    torch.testing.assert_close(block_diagonal(a), whole, **CLOSE)
    torch.testing.assert_close(block_diagonal(cayley(a, 0.7)), cayley(whole, 0.7), **CLOSE)


@pytest.mark.parametrize("theta_max", [0.1, math.pi / 3, 3.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("n", [2, 16])
def test_no_angle_exceeds_the_bound_within_one(theta_max, size, n):
    a = bounded(skew(p_of(n, n, size=size)), theta_max)
    for coeff in (-1.0, -0.5, 0.5, 1.0):
        assert angles(cayley(a, coeff))[0] <= theta_max * (1 + 1e-9)
    if size == 1e3:  # and it is reached
        assert angles(cayley(a, 1.0))[0] > 0.999 * theta_max
    if size == 1e-3:  # and small rotations are left as they are
        torch.testing.assert_close(a, skew(p_of(n, n, size=size)), rtol=0.1, atol=0)


def test_an_elementwise_clamp_would_not_bound_the_angle():
    """Why the bound is of the spectral norm."""
    limit = 2 * math.tan(0.5 / 2)
    clamped = skew(torch.full((16, 16), 9.0, dtype=torch.float64).triu(1)).clamp(-limit, limit)
    assert angles(cayley(clamped, 1.0))[0] > 2.0
    assert angles(cayley(bounded(clamped, 0.5), 1.0))[0] <= 0.5


def test_gradients_exist_at_zero_and_are_right_elsewhere():
    zero = torch.zeros(2, 3, 3, dtype=torch.float64, requires_grad=True)
    weights = p_of(2, 3, 3, seed=5)
    (cayley(bounded(skew(zero), 0.9), 1.0) * weights).sum().backward()
    torch.testing.assert_close(
        zero.grad, weights - weights.mT, **CLOSE
    )  # R = I + A + ..., of which the bound takes none
    assert torch.autograd.gradcheck(
        lambda p: cayley(bounded(skew(p), 0.9), 0.7), p_of(2, 3, 3, seed=1).requires_grad_(True)
    )


def test_modes_of_singular_values():
    s, lam = p_of(6).abs() + 0.1, p_of(6, seed=1)
    expected = {
        "add": lambda c: s + c * lam,
        "add_tanh": lambda c: s + c * torch.tanh(lam),
        "relative_tanh": lambda c: s * (1 + c * torch.tanh(lam)),
        "mult": lambda c: s * torch.exp(c * lam),
        "none": lambda c: s,
    }
    for mode, formula in expected.items():
        assert torch.equal(scaled(s, lam, 0.0, mode), s)
        for c in COEFFS:
            torch.testing.assert_close(scaled(s, lam, c, mode), formula(c), **CLOSE)
            torch.testing.assert_close(scaled(s, -lam, c, mode), scaled(s, lam, -c, mode), **CLOSE)
        once, twice = (scaled(s, lam, c, mode) - s for c in (1.0, 2.0))
        assert torch.allclose(twice, 2 * once) == (mode in LINEAR)
    with pytest.raises(ConfigError, match="no mode 'times' of singular values"):
        scaled(s, lam, 1.0, "times")


def test_what_is_no_block_or_bound_is_refused():
    assert check_blocks(24, None, None) == 24
    assert check_blocks(24, 8, 0.5) == 8
    for block in (0, 5, True, 2.0):
        with pytest.raises(ConfigError, match="block_size is"):
            check_blocks(24, block, None)
    for theta in (0.0, -1.0, math.pi, float("nan")):
        with pytest.raises(ConfigError, match="theta_max is"):
            check_blocks(24, None, theta)
