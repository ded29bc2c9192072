"""Singular value decompositions of weights: exact or randomised, kept on disk by the hash of the weight.

W ≈ U @ diag(S) @ Vh,  W [d_out d_in], U [d_out rank], S [rank], Vh [rank d_in]: the leading triples, in float32 at
least. How far they are from triples of W is measured for either kind:

    error = max_i sqrt(‖W v_i − s_i u_i‖² + ‖Wᵀ u_i − s_i v_i‖²) / s_1

Randomised: Halko, Martinsson and Tropp 2011 (arXiv 0909.4061), algorithms 4.4 and 5.1, with a few columns more than
asked for. The signs of a triple are the library's choice, so whoever uses one keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, ShapeError
from mechsteer.files.tensors import read_tensors, tensor_digest, write_tensors

KIND = "singular value decomposition"
_MORE = 10  # columns of the random sketch beyond the rank
_ROUNDS = 6  # of power iteration


@dataclass(frozen=True, kw_only=True, eq=False)
class Decomposition:
    """The leading singular triples of a weight."""

    u: Tensor
    """[d_out rank], orthonormal columns"""
    s: Tensor
    """[rank], largest first"""
    vh: Tensor
    """[rank d_in], orthonormal rows"""
    error: float
    """see above: about 1e-6 for an exact one in float32"""
    is_exact: bool


def decompose(
    weight: Tensor,
    rank: int,
    *,
    randomised: bool = False,
    seed: int = 0,
    cache: str | Path | None = None,
) -> Decomposition:
    """The `rank` leading triples of W [d_out d_in], on its device.

    `cache`: a folder where they are kept under the hash of W; a file that is there is read and checked. `seed`: of the
    random sketch; another thread's draws change nothing. Raises ConfigError for a rank outside 1 ... min(d_out, d_in),
    ShapeError for what is no float matrix, FileFormatError for a damaged file, StorageError.
    """
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ShapeError(f"a weight is {weight.dtype} {tuple(weight.shape)}", "give a float matrix [d_out d_in]")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(weight.shape):
        raise ConfigError(f"rank is {rank!r} of a map {tuple(weight.shape)}", f"give 1 to {min(weight.shape)}")
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if cache is None:
        return _computed(wide, rank, randomised, seed)
    how = f"random{seed}" if randomised else "exact"
    digest = tensor_digest("weight", wide.cpu().contiguous())
    path = Path(cache) / f"{digest}-{rank}-{how}.safetensors"
    found = read_tensors(path, kind=KIND, hint="remove the file: it is made again")
    if found is None:
        made = _computed(wide, rank, randomised, seed)
        header = {"weight": digest, "error": made.error, "is_exact": made.is_exact}
        write_tensors(path, {"u": made.u, "s": made.s, "vh": made.vh}, header, kind=KIND)
        return made
    tensors, header = found
    return Decomposition(
        **{name: tensors[name].to(weight.device) for name in ("u", "s", "vh")},
        error=float(header["error"]),
        is_exact=bool(header["is_exact"]),
    )


def _computed(weight: Tensor, rank: int, randomised: bool, seed: int) -> Decomposition:
    n_columns = min(rank + _MORE, *weight.shape)
    if randomised and n_columns < min(weight.shape):
        basis = _range(weight, n_columns, seed)
        small, s, vh = torch.linalg.svd(basis.T @ weight, full_matrices=False)
        u, is_exact = basis @ small, False
    else:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        is_exact = True
    u, s, vh = u[:, :rank].contiguous(), s[:rank].contiguous(), vh[:rank].contiguous()
    return Decomposition(u=u, s=s, vh=vh, error=_error(weight, u, s, vh), is_exact=is_exact)


def _range(weight: Tensor, n_columns: int, seed: int) -> Tensor:
    """[d_out n_columns] an orthonormal basis of nearly all that W writes."""
    noise = torch.randn(weight.shape[1], n_columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q = torch.linalg.qr(weight @ noise.to(weight)).Q
    for _ in range(_ROUNDS):
        q = torch.linalg.qr(weight @ torch.linalg.qr(weight.T @ q).Q).Q
    return q


def _error(weight: Tensor, u: Tensor, s: Tensor, vh: Tensor) -> float:
    left, right = weight @ vh.T - u * s, weight.T @ u - vh.T * s
    squares = left.pow(2).sum(0) + right.pow(2).sum(0)
    return float(squares.max().sqrt() / s[0].clamp(min=torch.finfo(s.dtype).tiny))
