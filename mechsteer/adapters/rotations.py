"""Rotations by the Cayley transform, and a bound on their angles.

    R(c) = (I − c A/2)⁻¹ (I + c A/2),   A = P − Pᵀ

R(0) = I, R(−c) = R(c)ᵀ, and R is orthogonal whatever P is. An eigenvalue pair ±iω of A is a plane that turns by
2·arctan(cω/2), so that the spectral norm of A bounds every angle:

    A ← A · lim·tanh(‖A‖/lim)/‖A‖,   lim = 2 tan(θ_max/2)

holds them below θ_max for |c| ≤ 1. (A clamp of the elements would not: the norm grows with their number.) At ‖A‖ = 0
the factor is 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mechsteer.errors import ConfigError


def skew(p: Tensor) -> Tensor:
    """A = P − Pᵀ of P [... n n]."""
    return p - p.mT


def bounded(a: Tensor, theta_max: float) -> Tensor:
    """The skew A [... n n], scaled so that R(c) turns by less than `theta_max` radians where |c| ≤ 1.

    Blocks [n_blocks n n] are scaled together: their norm is that of the whole block-diagonal matrix.
    """
    limit = 2 * math.tan(theta_max / 2)
    norm = torch.linalg.matrix_norm(a, ord=2).amax()
    is_zero = norm < torch.finfo(norm.dtype).tiny
    safe = torch.where(is_zero, 1.0, norm)  # 0/0 would leave no gradient but NaN
    return a * torch.where(is_zero, 1.0, limit * torch.tanh(safe / limit) / safe)


def cayley(a: Tensor, coeff: float) -> Tensor:
    """R(c) [... n n] of a skew A [... n n]."""
    half, eye = coeff / 2 * a, torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return torch.linalg.solve(eye - half, eye + half)


def block_diagonal(blocks: Tensor) -> Tensor:
    """[n_blocks·n n_blocks·n] of blocks [n_blocks n n]."""
    return torch.block_diag(*blocks)


def angles(rotation: Tensor) -> Tensor:
    """[n] by how much each plane of a rotation [n n] turns, in radians, largest first; each plane has two entries."""
    return torch.linalg.eigvals(rotation.detach()).angle().abs().sort(descending=True).values


def check_blocks(rank: int, block_size: int | None, theta_max: float | None) -> int:
    """The size of a block. Raises ConfigError where blocks do not divide the rank, or the angle is no bound."""
    size = rank if block_size is None else block_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or rank % size:
        raise ConfigError(f"block_size is {block_size!r} at rank {rank}", "give a divisor of the rank, or None")
    if theta_max is not None and not 0 < theta_max < math.pi:
        raise ConfigError(f"theta_max is {theta_max}", "give radians between 0 and π, or None for no bound")
    return size
