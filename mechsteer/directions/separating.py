"""Directions along which contrastive pairs are to be separated: one for all, or one for each pair.

From the differences D = h_positive − h_negative [n_pairs d_model] of the unsteered model, each direction of length 1:

    mean_difference  mean D                          the same for every pair
    pairwise_pca     first principal axis of D about zero, on the side of its mean
    top_aligned      of the first `n_top` principal axes the one with the largest |cosine| to mean D
    thresholded      per pair: D_i within those of the axes along which it has at least `threshold` of its length
    own              per pair: D_i itself

With `rows` [k d_model], orthonormal, the differences are projected on their span before anything is taken of them, or
what was taken is projected afterwards: the left-singular basis of a map, say, which is all that the map can write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, DataError, ShapeError
from mechsteer.shapes import Directions, Samples

SeparatingKind = Literal["mean_difference", "pairwise_pca", "top_aligned", "thresholded", "own"]
Projection = Literal["before", "after"]


@dataclass(frozen=True, kw_only=True)
class Separating:
    """How the directions are found. Raises ConfigError for settings out of range."""

    kind: SeparatingKind = "mean_difference"
    measure: str | None = None
    """the map of the same layer (o or down) in whose left-singular basis differences are measured; None: as they are"""
    measure_rank: int = 64
    """of that basis, at most"""
    projection: Projection = "before"
    n_top: int = 100
    threshold: float = 0.1

    def __post_init__(self) -> None:
        for name, allowed in (("kind", SeparatingKind), ("projection", Projection)):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(f"{name} is {getattr(self, name)!r}", f"choose one of {list(get_args(allowed))}")
        if self.measure not in (None, "o", "down"):
            raise ConfigError(f"measure is {self.measure!r}", "o and down write into the residual stream; or None")
        if self.n_top < 1 or self.measure_rank < 1 or not 0 <= self.threshold <= 1:
            raise ConfigError(
                f"n_top is {self.n_top}, measure_rank {self.measure_rank}, threshold {self.threshold}",
                "counts are at least 1, the threshold is a share of a difference's length",
            )


def separating_directions(
    differences: Samples, how: Separating | None = None, rows: Directions | None = None
) -> Samples:
    """[n_pairs d_model] of the differences [n_pairs d_model], each of length 1.

    Raises ShapeError for rows that are not orthonormal, DataError where there is no difference to go by.
    """
    how = Separating() if how is None else how
    d = differences.double()
    if d.ndim != 2 or not len(d):
        raise ShapeError(f"differences are {tuple(differences.shape)}", "give [n_pairs d_model]")
    basis = None if rows is None else _checked(rows.to(d), d)
    if basis is not None and how.projection == "before":
        d = d @ basis.T @ basis
    found = _found(d, how)
    if basis is not None and how.projection == "after":
        found = found @ basis.T @ basis
    lengths = found.norm(dim=1, keepdim=True)
    if not bool(torch.isfinite(lengths).all()) or bool((lengths <= 1e-12 * d.norm(dim=1).max()).any()):
        raise DataError(
            "some pairs have no difference there: there is no direction to separate them along",
            "leave out pairs of equal texts, measure at a later layer, or take another kind of direction",
        )
    return (found / lengths).to(differences.dtype)


def _checked(rows: Tensor, d: Tensor) -> Tensor:
    if rows.ndim != 2 or rows.shape[1] != d.shape[1]:
        raise ShapeError(f"rows are {tuple(rows.shape)} for {d.shape[1]} dimensions", "give [k d_model]")
    if not torch.allclose(rows @ rows.T, torch.eye(len(rows)).to(rows), atol=1e-4):
        raise ShapeError("the rows are not orthonormal", "give singular vectors of one map")
    return rows


def _found(d: Tensor, how: Separating) -> Tensor:
    if how.kind == "own":
        return d
    mean = d.mean(0)
    if how.kind == "mean_difference":
        return mean.expand_as(d)
    axes = torch.linalg.svd(d, full_matrices=False).Vh[: 1 if how.kind == "pairwise_pca" else how.n_top]
    if how.kind != "thresholded":
        along = axes @ mean
        best = along.abs().argmax()
        return (torch.where(along[best] < 0, -1.0, 1.0) * axes[best]).expand_as(d)
    shares = d @ axes.T
    least = how.threshold * d.norm(dim=1, keepdim=True)
    largest = shares.abs() >= shares.abs().amax(1, keepdim=True)  # where none passes, the longest does
    return torch.where((shares.abs() >= least) | largest, shares, 0.0) @ axes
