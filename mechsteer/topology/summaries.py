"""Persistent entropy of activation trajectories, with everything needed to read it.

For the bars with lifetimes l_i > 0 and p_i = l_i / Σ l: H = -Σ p_i ln p_i in nats. The infinite bar is dropped,
zero-length bars (duplicate points) are counted and dropped. H grows with the number of points (H ≤ ln(n - 1) for
H0, and high-dimensional clouds sit just under it), so compare trajectories at equal n and read `deficit` = ln m - H
and `normalized` = H / ln m beside it, m being the number of positive bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.results import Result
from mechsteer.signals.spanning import lifetime_entropy, mst_edges, squared_distances
from mechsteer.topology.persistence import Engine, h1_bars

Metric = Literal["euclidean", "cosine"]


@dataclass(frozen=True, kw_only=True)
class BarSummary(Result):
    """The bars of one homology dimension of one trajectory."""

    entropy_nats: float
    """H, natural logarithm; 0 where there is at most one positive bar"""
    n_bars: int
    """m, positive finite bars"""
    n_zero: int
    """zero-length bars, dropped from everything else"""
    total: float
    """Σ l, in the units of the points"""
    max: float
    """longest lifetime, 0 without bars"""
    deficit: float
    """ln m - H; nan without bars"""
    normalized: float
    """H / ln m; nan below two bars"""
    collapsed: bool
    """there were zero-length bars and no other: all points are equal"""
    bars: Float[ndarray, "n_bars 2"]
    """(birth, death) of the positive bars, by lifetime, ascending"""


@dataclass(frozen=True, kw_only=True)
class H0Batch(Result):
    """`BarSummary` for the H0 of many trajectories; every field is an array over them."""

    entropy_nats: Float[ndarray, " batch"]
    n_bars: Int[ndarray, " batch"]
    n_zero: Int[ndarray, " batch"]
    total: Float[ndarray, " batch"]
    max: Float[ndarray, " batch"]
    deficit: Float[ndarray, " batch"]
    normalized: Float[ndarray, " batch"]
    collapsed: Bool[ndarray, " batch"]
    bars: Float[ndarray, "batch n_edges"]
    """lifetimes (every birth is 0), ascending, zeros included; nan behind the last"""


@dataclass(frozen=True, kw_only=True)
class TopologySummary(Result):
    """Topology of one trajectory; a dimension that was not asked for is None. How it was prepared is recorded."""

    n_points: int
    metric: Metric
    zscore: bool
    pca: int | None
    h0: BarSummary | None
    h1: BarSummary | None


def summarize(
    points: Float[Tensor, "n_points d_model"] | Float[ndarray, "n_points d_model"],
    dims: Sequence[int] = (0, 1),
    metric: Metric = "euclidean",
    *,
    zscore: bool = False,
    pca: int | None = None,
    engine: Engine = "ripser",
) -> TopologySummary:
    """H0 and H1 of one trajectory: its points are the tokens' activations at one site.

    Leave out position 0 (an attention sink's norm hides everything else) and padding. `zscore` scales each
    coordinate of the trajectory to unit variance, `pca` keeps that many leading components, `metric="cosine"`
    scales points to unit norm (chordal distance √(2 - 2 cos)); in this order. `engine` finds the loops: see `h1_bars`.

    Raises ShapeError (no points, not two axes), NonFiniteError, ConfigError (dims, metric, pca),
    DataError (a zero vector under the cosine metric).

    >>> square = summarize(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]))
    >>> square.h0.n_bars, round(square.h0.entropy_nats, 4), square.h1.bars.round(4).tolist()
    (3, 1.0986, [[1.0, 1.4142]])
    """
    unknown = set(dims) - {0, 1}
    if unknown or not dims:
        raise ConfigError(
            f"dims are {tuple(dims)}; (0,), (1,) or (0, 1) is needed.", "higher dimensions are not computed."
        )
    cloud = prepare(points, metric, zscore=zscore, pca=pca)
    h0 = h1 = None
    if 0 in dims:
        edges = mst_edges(cloud[None])[0]
        h0 = _summarize_bars(np.column_stack([np.zeros_like(edges), edges]))
    if 1 in dims:
        h1 = _summarize_bars(h1_bars(np.sqrt(squared_distances(cloud)), engine))
    return TopologySummary(n_points=len(cloud), metric=metric, zscore=zscore, pca=pca, h0=h0, h1=h1)


def h0_batch(
    points: Float[Tensor, "batch n_points d_model"] | Float[ndarray, "batch n_points d_model"],
    lengths: Tensor | ndarray | list[int] | None = None,
) -> H0Batch:
    """Euclidean H0 of many trajectories at once; `lengths [batch]` counts the real points of right-padded rows.

    Raises ShapeError (shape, a length of 0), NonFiniteError.

    >>> batch = h0_batch(np.array([[[0.0], [1.0], [2.0]], [[5.0], [5.0], [9.0]]]), lengths=[3, 2])
    >>> batch.entropy_nats.round(4).tolist(), batch.n_zero.tolist(), batch.collapsed.tolist()
    ([0.6931, 0.0], [0, 1], [False, True])
    """
    return _batch(mst_edges(points, lengths))


def prepare(
    points: Float[Tensor, "n_points d_model"] | Float[ndarray, "n_points d_model"],
    metric: Metric = "euclidean",
    *,
    zscore: bool = False,
    pca: int | None = None,
) -> Float[Tensor, "n_points d_cloud"]:
    """The points whose Euclidean distances the metric means; see `summarize`. Unchanged points keep their dtype."""
    if hasattr(points, "trajectories"):
        raise ShapeError(
            f"these are the trajectories of several prompts ({type(points).__name__}).",
            "take one: points.row(0); or all of them: trace_frame(points).",
        )
    cloud = torch.as_tensor(points).detach().cpu()
    if cloud.ndim != 2 or 0 in cloud.shape:
        raise ShapeError(
            f"a trajectory has shape {list(cloud.shape)}; [n_points d_model] with at least one point is needed.",
            "an empty trajectory has no topology: leave it out; for a batch use h0_batch.",
        )
    if not torch.isfinite(cloud).all():
        row = int((~torch.isfinite(cloud)).any(1).nonzero()[0])
        raise NonFiniteError(
            f"point {row} of the trajectory holds NaN or infinity.",
            "cut padding off; otherwise look at the model's dtype and at the site.",
        )
    if metric not in ("euclidean", "cosine"):
        raise ConfigError(f"metric is {metric!r}.", 'use "euclidean" or "cosine".')
    if not (zscore or pca is not None or metric == "cosine"):
        return cloud
    cloud = cloud.double()
    if zscore:
        deviation = cloud.std(0, correction=0)
        cloud = (cloud - cloud.mean(0)) / torch.where(deviation > 0, deviation, 1.0)
    if pca is not None:
        if not 1 <= pca <= min(cloud.shape):
            raise ConfigError(
                f"pca is {pca} for a trajectory of shape {list(cloud.shape)}.", "use 1 … min(n, d_model)."
            )
        left, singular, _ = torch.linalg.svd(cloud - cloud.mean(0), full_matrices=False)
        cloud = left[:, :pca] * singular[:pca]
    if metric == "cosine":
        norms = cloud.norm(dim=1, keepdim=True)
        if (norms == 0).any():
            raise DataError(
                f"point {int((norms == 0).nonzero()[0, 0])} is the zero vector, which has no direction.",
                'leave it out or use metric="euclidean".',
            )
        cloud = cloud / norms
    return cloud


def _summarize_bars(bars: Float[ndarray, "n_bars 2"]) -> BarSummary:
    lifetimes = bars[:, 1] - bars[:, 0]
    order = np.argsort(lifetimes, kind="stable")
    batch = _batch(lifetimes[order][None])
    scalars = {name: getattr(batch, name)[0].item() for name in H0Batch.__dataclass_fields__ if name != "bars"}
    return BarSummary(**scalars, bars=bars[order][lifetimes[order] > 0])


def _batch(lifetimes: Float[ndarray, "batch n_edges"]) -> H0Batch:
    entropy, deficit = lifetime_entropy(lifetimes)
    n_bars = (lifetimes > 0).sum(1)
    n_zero = (lifetimes == 0).sum(1)
    log_bars = np.log(np.where(n_bars > 1, n_bars, 2))
    return H0Batch(
        entropy_nats=entropy,
        n_bars=n_bars,
        n_zero=n_zero,
        total=np.nansum(lifetimes, axis=1),
        max=np.nan_to_num(lifetimes).max(axis=1, initial=0.0),
        deficit=deficit,
        normalized=np.where(n_bars > 1, entropy / log_bars, np.nan),
        collapsed=(n_bars == 0) & (n_zero > 0),
        bars=lifetimes,
    )
