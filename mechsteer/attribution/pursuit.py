"""Orthogonal matching pursuit (Pati, Rezaiifar & Krishnaprasad 1993), batched over targets.

A dictionary with more atoms than dimensions reproduces any vector by least squares, which says nothing; pursuit
takes the atom most correlated with what is left, refits all atoms taken so far, and stops after k of them.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, finfo
from torch.linalg import solve_triangular

_ENTRIES = 2**24  # of the largest intermediate tensor


def matching_pursuit(
    targets: Float[Tensor, "n d_model"], directions: Float[Tensor, "n_dirs d_model"], k: int
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """(atoms, coefficients) of each target over unit `directions`, in the order the atoms were taken.

    k is at most d_model and n_dirs. Atom -1 with coefficient 0: the target was already reproduced.
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
    r.diagonal(dim1=1, dim2=2).fill_(1)
    atoms = x.new_full((n, k), -1).long()
    left, eps = x.clone(), finfo(x.dtype).eps
    floor = 8 * eps * x.norm(dim=1)
    live = floor > 0
    for i in range(k):
        live = live & (left.norm(dim=1) > floor)
        if not bool(live.any()):
            break
        match = (left @ directions.T).abs()
        match.scatter_(1, atoms[:, :i].clamp(min=0), -1)  # what is taken stays taken, whatever rounding left of it
        pick = match.argmax(1)
        done, atom = q[:, :i], directions[pick]
        shares = (done @ atom[:, :, None])[..., 0]
        new = atom - (shares[:, None] @ done)[:, 0]
        again = (done @ new[:, :, None])[..., 0]  # twice is enough for orthogonality to rounding
        new, shares = new - (again[:, None] @ done)[:, 0], shares + again
        norm = new.norm(dim=1)
        live = live & (norm > 1e3 * eps)
        new = new / norm.clamp(min=1e-30)[:, None] * live[:, None]
        left = left - (left * new).sum(1, keepdim=True) * new
        q[:, i], atoms[:, i] = new, pick.where(live, -1)
        r[:, :i, i] = shares * live[:, None]
        r[:, i, i] = norm.where(live, 1)
    return atoms, solve_triangular(r, q @ x[:, :, None], upper=True)[..., 0]
