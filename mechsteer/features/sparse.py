"""Feature activations of which only the active ones are kept: per token k indices and k values.

    acts[..., indices[..., j]] += values[..., j],   0 elsewhere

A TopK SAE with 32 of 16,384 features active needs 384 bytes per token so, and 64 kB dense. What sums activations over
sets of tokens needs no more: a sparse matrix product in float64, over the tokens that are in some set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor

from mechsteer.errors import NonFiniteError, ShapeError

_CHUNK_ENTRIES = 2**21  # of (index, value) pairs held in float64 at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseActs:
    """Feature activations [*rows d_sae] by their active entries; places that are not needed hold the value 0.

    Raises ShapeError where indices and values do not belong together, or an index is no feature.
    """

    indices: Int[Tensor, "*rows k"]
    values: Float[Tensor, "*rows k"]
    d_sae: int

    def __post_init__(self) -> None:
        if self.indices.shape != self.values.shape or self.indices.ndim == 0 or self.indices.is_floating_point():
            raise ShapeError(
                f"indices {tuple(self.indices.shape)} {self.indices.dtype} and values {tuple(self.values.shape)}",
                "expected integer indices and values, both [*rows k]",
            )
        if self.indices.numel() and not 0 <= int(self.indices.min()) <= int(self.indices.max()) < self.d_sae:
            raise ShapeError(
                f"feature indices from {int(self.indices.min())} to {int(self.indices.max())}, d_sae is {self.d_sae}",
                "expected 0 to d_sae - 1",
            )

    @property
    def shape(self) -> torch.Size:
        """Of the dense activations: [*rows d_sae]."""
        return torch.Size((*self.indices.shape[:-1], self.d_sae))

    def __getitem__(self, rows: int | slice | Tensor) -> SparseActs:
        """Some of the rows: what it selects of the first axis (a mask [batch pos]: of the first two)."""
        return SparseActs(indices=self.indices[rows], values=self.values[rows], d_sae=self.d_sae)

    def reshaped(self, rows: Sequence[int]) -> SparseActs:
        """The same tokens with other leading axes."""
        shape = (*rows, self.indices.shape[-1])
        return SparseActs(indices=self.indices.reshape(shape), values=self.values.reshape(shape), d_sae=self.d_sae)

    def flat(self) -> SparseActs:
        """[n_tokens d_sae]: all leading axes as one."""
        return self.reshaped([self.indices.shape[:-1].numel()])

    def dense(self) -> Float[Tensor, "*rows d_sae"]:
        """All activations, the zeros written out."""
        return self.values.new_zeros(self.shape).scatter_add_(-1, self.indices.long(), self.values)


def join(parts: Sequence[SparseActs]) -> SparseActs:
    """Rows [n d_sae] of several, one after the other; those of fewer active features are filled up with zeros.

    Raises ShapeError for none, and for features of different SAEs.
    """
    widths = {part.d_sae for part in parts}
    if len(widths) != 1:
        raise ShapeError(f"sparse activations with d_sae {sorted(widths)}", "expected parts of one SAE, at least one")
    k = max(part.indices.shape[-1] for part in parts)
    padded = [
        [torch.nn.functional.pad(value, (0, k - value.shape[-1])) for value in (part.indices, part.values)]
        for part in parts
    ]
    indices, values = (torch.cat(list(column)) for column in zip(*padded, strict=True))
    return SparseActs(indices=indices, values=values, d_sae=widths.pop())


def sparsified(acts: Float[Tensor, "*rows d_sae"]) -> SparseActs:
    """Dense activations by their entries that are not 0; k is the largest number of these that any row has."""
    flat = acts.flatten(0, -2)
    row, feature = flat.nonzero(as_tuple=True)  # NaN is not 0: it is kept, and refused where it is used
    counts = torch.bincount(row, minlength=len(flat))
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    k = int(counts.max()) if len(counts) else 0
    indices, values = feature.new_zeros(len(flat), k), flat.new_zeros(len(flat), k)
    indices[row, place], values[row, place] = feature, flat[row, feature]
    return SparseActs(indices=indices, values=values, d_sae=acts.shape[-1]).reshaped(acts.shape[:-1])


def sums_over(sets: Bool[Tensor, "n_sets n_tokens"], acts: SparseActs) -> Float[Tensor, "n_sets d_sae"]:
    """Per set of tokens and feature the sum of activations, float64 on the CPU; tokens in no set may hold anything.

    `acts` [n_tokens d_sae]. Raises NonFiniteError for NaN or infinity at a token of a set.
    """
    sets = sets.cpu()
    rows = sets.any(0).nonzero().flatten()
    k = acts.indices.shape[-1]
    sums = torch.zeros(acts.d_sae, len(sets), dtype=torch.float64)
    for part in rows.split(max(1, _CHUNK_ENTRIES // max(k, len(sets), 1))):
        own = part.to(acts.values.device)
        values, indices = acts.values[own].double().cpu(), acts.indices[own].cpu()
        if not values.isfinite().all():
            raise NonFiniteError(
                "NaN or infinity in the feature activations", "mask the positions that were not computed"
            )
        starts = torch.arange(0, len(part) * k + 1, k) if k else torch.zeros(len(part) + 1)
        entries = values.flatten().numpy(), indices.flatten().numpy(), starts.long().numpy()
        by_token = csr_matrix(entries, shape=(len(part), acts.d_sae))
        sums += torch.from_numpy(by_token.T @ sets[:, part].double().T.contiguous().numpy())
    return sums.T.contiguous()
