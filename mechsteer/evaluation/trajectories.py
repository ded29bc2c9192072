"""Topology of the trajectories of right and wrong texts, at matched length, beside length itself.

Entropy follows the number of points, so it is compared between trajectories resampled to one length, and every
feature is held against length: what it says alone, and what it says beside length and the token limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import spearmanr
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.probes import partial_effect
from mechsteer.results import Interval, Result
from mechsteer.topology import trace_frame

FEWEST = 10  # trajectories that a comparison is made of


@dataclass(frozen=True, kw_only=True)
class TrajectoryEffect(Result):
    """What one feature says about a right answer, in log-odds per standard deviation."""

    name: str
    alone: Interval | None
    beside_length: Interval | None
    """beside length and token limit; None for length itself"""
    dropped: str = ""
    """why there is no value"""


@dataclass(frozen=True, kw_only=True)
class TrajectoryTopology(Result):
    """Raw and matched topology of trajectories, and what it says about right answers."""

    site: str
    n_points: int
    """that every trajectory is resampled to"""
    n_too_short: int
    """left out: they have fewer points"""
    lengths: Float[ndarray, " n_traces"]
    correct: tuple[bool | None, ...]
    raw_entropy_nats: Float[ndarray, " n_traces"]
    """H0 entropy of the whole trajectory"""
    matched_entropy_nats: Float[ndarray, " n_traces"]
    raw_rank_correlation: float
    """Spearman's, of raw entropy with length; nan where one of them is constant"""
    matched_rank_correlation: float
    means: dict[str, float]
    """of every summary at matched length"""
    effects: tuple[TrajectoryEffect, ...]
    no_effects: str = ""
    """why nothing is said about right answers"""


def trajectory_topology(
    trajectories: Sequence[Tensor],
    correct: Sequence[bool | None],
    groups: Sequence[str],
    *,
    site: str,
    n_points: int = 32,
    limit: int | None = None,
    n_boot: int = 300,
    seed: int = 0,
) -> TrajectoryTopology:
    """Compare `trajectories` [n d_model] of texts, right or wrong (None: not judged), of problems `groups`.

    Trajectories of fewer than `n_points` are left out and counted. `limit`: the longest that a text could become
    (texts that reached it were cut). Raises DataError where fewer than ten are long enough.
    """
    long_enough = [i for i, points in enumerate(trajectories) if len(points) >= n_points]
    if len(long_enough) < FEWEST:
        raise DataError(
            f"only {len(long_enough)} of {len(trajectories)} traces have {n_points} tokens",
            f"{FEWEST} are needed: choose a smaller n_points, or more traces",
        )
    clouds = [trajectories[i] for i in long_enough]
    matched = trace_frame(clouds, n_points=n_points, dims=(0, 1))
    raw = trace_frame(clouds, dims=(0,))
    lengths = np.array([len(points) for points in clouds], dtype=float)
    labels = tuple(correct[i] for i in long_enough)
    entropies = {
        name: frame["h0_entropy_nats"].to_numpy(dtype=float) for name, frame in (("raw", raw), ("matched", matched))
    }
    effects: tuple[TrajectoryEffect, ...] = ()
    both = None not in labels and len(set(labels)) == 2
    if both:
        features = {
            "raw H0 entropy": entropies["raw"],
            "H0 entropy at matched length": entropies["matched"],
            "H0 deficit at matched length": matched["h0_deficit"].to_numpy(dtype=float),
            "H1 total persistence at matched length": matched["h1_total"].to_numpy(dtype=float),
            "length alone": None,
        }
        hit = np.zeros(len(lengths)) if limit is None else (lengths >= limit - 1).astype(float)
        covariates = {"length": lengths, "hit_limit": hit}
        names = np.array([groups[i] for i in long_enough])
        right = np.array(labels, dtype=bool)
        effects = tuple(
            _effect(name, values, lengths, right, covariates, names, n_boot, seed) for name, values in features.items()
        )
    summaries = [str(name) for name in matched.columns if str(name).startswith(("h0_", "h1_", "kin_"))]
    return TrajectoryTopology(
        site=site,
        n_points=n_points,
        n_too_short=len(trajectories) - len(long_enough),
        lengths=lengths,
        correct=labels,
        raw_entropy_nats=entropies["raw"],
        matched_entropy_nats=entropies["matched"],
        raw_rank_correlation=rank_correlation(entropies["raw"], lengths),
        matched_rank_correlation=rank_correlation(entropies["matched"], lengths),
        means={name: float(np.mean(matched[name].to_numpy(dtype=float))) for name in summaries},
        effects=effects,
        no_effects="" if both else "the traces are not both right and wrong",
    )


def _effect(
    name: str,
    values: ndarray | None,
    lengths: ndarray,
    right: ndarray,
    covariates: dict[str, ndarray],
    groups: ndarray,
    n_boot: int,
    seed: int,
) -> TrajectoryEffect:
    try:
        if values is None:
            effect = partial_effect(lengths, right, {}, groups, n_boot=n_boot, seed=seed)
        else:
            effect = partial_effect(values, right, covariates, groups, n_boot=n_boot, seed=seed)
    except DataError as error:
        return TrajectoryEffect(name=name, alone=None, beside_length=None, dropped=error.message)
    return TrajectoryEffect(name=name, alone=effect.alone, beside_length=None if values is None else effect.effect)


def rank_correlation(a: ndarray, b: ndarray) -> float:
    """Spearman's; nan where one of them is constant.

    >>> rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([3.0, 4.0, 5.0]))
    1.0
    """
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.asarray(spearmanr(a, b))[0])
