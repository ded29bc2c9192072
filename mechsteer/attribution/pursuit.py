"""Orthogonal matching pursuit (Pati, Rezaiifar & Krishnaprasad 1993), batched over targets.

A dictionary with more atoms than dimensions reproduces any vector by least squares, which says nothing; pursuit
takes the atom most correlated with what is left, refits all atoms taken so far, and stops after k of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, finfo
from torch.linalg import solve_triangular, vector_norm

_ENTRIES = 2**24  # of the largest intermediate tensor
_LITTLE = 0.5  # norm that one pass of Gram-Schmidt has to leave of an atom


def matching_pursuit(
    targets: Float[Tensor, "n d_model"], directions: Float[Tensor, "n_dirs d_model"], k: int
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """(atoms, coefficients) of each target over unit `directions`, in the order the atoms were taken.

    k is at most d_model and n_dirs. Atom -1 with coefficient 0: beyond rounding nothing that is left of the target lies
    along any direction.
    """
    n_dirs, d_model = directions.shape
    k = min(k, n_dirs, d_model)
    size = max(1, _ENTRIES // max(n_dirs, k * d_model))
    atoms, values = targets.new_empty(len(targets), k).long(), targets.new_empty(len(targets), k)
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        atoms[part], values[part] = _pursue(targets[part], directions, k)
    return atoms, values


def _pursue(x: Tensor, directions: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n, d_model = x.shape
    # x = Q y and atoms = Q R: Gram-Schmidt as the atoms come, coefficients by back substitution at the end
    q, r = x.new_zeros(n, k, d_model), x.new_zeros(n, k, k)
    picks, used = torch.zeros(n, k, dtype=torch.long, device=x.device), x.new_zeros(n, k, dtype=torch.bool)
    left, eps = x, finfo(x.dtype).eps
    floor = 8 * eps * vector_norm(x, dim=1)
    live = floor > 0
    for i in range(k):
        match = (left @ directions.T).abs_()
        pick = _largest(match)
        # what is taken already has rounding left, or, where that is more, a norm of nothing below
        live = live & (match.gather(1, pick[:, None])[:, 0] > floor)
        if not bool(live.any()):
            break
        new, shares, norm = _apart(directions.index_select(0, pick), q[:, :i])
        live = live & (norm > 1e3 * eps)
        new *= (live / norm.clamp(min=1e-30))[:, None]
        left = left - (left * new).sum(1, keepdim=True) * new
        q[:, i], r[:, :i, i], r[:, i, i], picks[:, i], used[:, i] = new, shares, norm, pick, live
    r *= used[:, None]
    r.diagonal(dim1=1, dim2=2).masked_fill_(~used, 1)
    values = solve_triangular(r, q @ x[:, :, None], upper=True)[..., 0]
    return picks.where(used, -1), values


def _apart(atoms: Tensor, done: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(what unit `atoms` [n d_model] have outside the rows of `done` [n i d_model], shares along these, norm of the rest).

    Twice is enough for orthogonality to rounding, and once where half of an atom or more is left (Daniel, Gragg,
    Kaufman & Stewart 1976).
    """
    shares = (atoms[:, None] @ done.transpose(1, 2))[:, 0]  # a row on the left: a column takes four times as long
    new = atoms - (shares[:, None] @ done)[:, 0]
    norm = vector_norm(new, dim=1)
    is_little = norm < _LITTLE
    if bool(is_little.any()):
        few = is_little.nonzero()[:, 0]
        again = (done[few] * new[few, None]).sum(2)
        new[few] -= (again[:, None] @ done[few])[:, 0]
        shares[few] += again
        norm = vector_norm(new, dim=1)
    return new, shares, norm


def _largest(values: Tensor) -> Tensor:
    """The place of each row's largest value: numpy finds it eight times as fast as torch does on a processor."""
    return torch.from_numpy(values.numpy().argmax(1)) if values.device.type == "cpu" else values.argmax(1)
