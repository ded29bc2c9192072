"""Topology of the trajectories of right and wrong texts, at matched length, beside all that length says.

Entropy follows the number of points and their spacing, so it is compared between clouds of one size, made in two ways:

- *matched length*: `n_points` tokens spread evenly over the trajectory. The longer it is, the further apart they lie;
- *matched spacing*: windows of `n_points` neighbouring tokens side by side, the mean over the windows.

Each feature is held against what needs no topology: length as a curve, and whatever else is known of the text; and the
same within problems, where all that attempts at one problem share has dropped out (`mechsteer.probes.partial`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
    beside_text: Interval | None
    """beside the covariates; None for length itself"""
    within_problems: Interval | None
    """the same between right and wrong attempts at one problem"""
    beyond: bool = False
    """whether the value within problems differs from 0 with all features tested at once (Bonferroni, 95 % in all)"""
    dropped: str = ""
    """why there is no value"""


@dataclass(frozen=True, kw_only=True)
class Outcomes(Result):
    """Traces by outcome and style."""

    n_right: int
    n_wrong: int
    n_unjudged: int
    styles: dict[str, int]

    @property
    def n(self) -> int:
        return self.n_right + self.n_wrong + self.n_unjudged

    @property
    def share_right(self) -> float:
        """Of the judged ones; nan without any."""
        judged = self.n_right + self.n_wrong
        return self.n_right / judged if judged else float("nan")


@dataclass(frozen=True, kw_only=True)
class TrajectoryTopology(Result):
    """Raw and matched topology of trajectories, and what it says about right answers."""

    site: str
    n_points: int
    """that every trajectory is resampled to"""
    used: Outcomes
    too_short: Outcomes
    """left out: they have fewer points"""
    lengths: Float[ndarray, " n_traces"]
    correct: tuple[bool | None, ...]
    raw_entropy_nats: Float[ndarray, " n_traces"]
    """H0 entropy of the whole trajectory"""
    matched_entropy_nats: Float[ndarray, " n_traces"]
    raw_rank_correlation: float
    """Spearman's, of raw entropy with length; nan where one of them is constant"""
    matched_rank_correlation: float
    spaced_rank_correlation: float
    """of entropy at matched spacing"""
    means: dict[str, float]
    """of every summary at matched length"""
    effects: tuple[TrajectoryEffect, ...]
    covariates: tuple[str, ...] = ()
    """what the effects stand beside"""
    constant: tuple[str, ...] = ()
    """covariates that are the same for all traces: nothing stands beside them"""
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
    covariates: Mapping[str, ndarray] | None = None,
    styles: Sequence[str | None] | None = None,
    n_sites: int = 1,
) -> TrajectoryTopology:
    """Compare `trajectories` [n d_model] of texts, right or wrong (None: not judged), of problems `groups`.

    Trajectories of fewer than `n_points` are left out and counted by outcome. `limit`: the longest that a text could
    become (texts that reached it were cut). `covariates` [n_trajectories] are numbers or strings beside length and
    token limit; so are the `styles` where all are known. `n_sites`: at so many the same is tested at once (for what is
    `beyond`). Raises DataError where fewer than ten are long enough.
    """
    long_enough = [i for i, points in enumerate(trajectories) if len(points) >= n_points]
    if len(long_enough) < FEWEST:
        raise DataError(
            f"only {len(long_enough)} of {len(trajectories)} traces have {n_points} tokens",
            f"{FEWEST} are needed: choose a smaller n_points, or more traces",
        )
    clouds = [trajectories[i] for i in long_enough]
    matched = trace_frame(clouds, n_points=n_points, dims=(0, 1))
    raw = trace_frame(clouds, dims=(0,))["h0_entropy_nats"].to_numpy(dtype=float)
    spaced = trace_frame(clouds, window=n_points, dims=(0, 1))
    in_windows = spaced.groupby("trace", sort=True)
    spaced_entropy, spaced_h1 = (
        np.asarray(in_windows[name].mean(), dtype=float) for name in ("h0_entropy_nats", "h1_total")
    )
    lengths = np.array([len(points) for points in clouds], dtype=float)
    labels = tuple(correct[i] for i in long_enough)
    entropy = matched["h0_entropy_nats"].to_numpy(dtype=float)
    both = None not in labels and len(set(labels)) == 2
    effects: tuple[TrajectoryEffect, ...] = ()
    known: dict[str, ndarray] = {}
    if both:
        known["length"] = lengths
        known |= {name: np.asarray(values)[long_enough] for name, values in (covariates or {}).items()}
        if styles is not None and None not in styles:
            known["style"] = np.array([styles[i] for i in long_enough])
        if limit is not None:
            known["token limit"] = (lengths >= limit - 1).astype(float)
        features = {
            "raw H0 entropy": raw,
            "H0 entropy at matched length": entropy,
            "H0 entropy at matched spacing": spaced_entropy,
            "H1 total persistence at matched length": matched["h1_total"].to_numpy(dtype=float),
            "H1 total persistence at matched spacing": spaced_h1,
            "length alone": None,
        }
        names = np.array([groups[i] for i in long_enough])
        right = np.array(labels, dtype=bool)
        confidence = 1 - 0.05 / ((len(features) - 1) * n_sites)
        effects = tuple(
            _effect(name, values, lengths, right, known, names, confidence) for name, values in features.items()
        )
    summaries = [str(name) for name in matched.columns if str(name).startswith(("h0_", "h1_", "kin_"))]
    constant = tuple(name for name, values in known.items() if len(np.unique(values)) < 2)
    left_out = sorted(set(range(len(trajectories))) - set(long_enough))
    return TrajectoryTopology(
        site=site,
        n_points=n_points,
        used=_outcomes(long_enough, correct, styles),
        too_short=_outcomes(left_out, correct, styles),
        lengths=lengths,
        correct=labels,
        raw_entropy_nats=raw,
        matched_entropy_nats=entropy,
        raw_rank_correlation=rank_correlation(raw, lengths),
        matched_rank_correlation=rank_correlation(entropy, lengths),
        spaced_rank_correlation=rank_correlation(spaced_entropy, lengths),
        means={name: float(np.mean(matched[name].to_numpy(dtype=float))) for name in summaries},
        effects=effects,
        covariates=tuple(name for name in known if name not in constant),
        constant=constant,
        no_effects="" if both else "the traces are not both right and wrong",
    )


def _outcomes(indices: Sequence[int], correct: Sequence[bool | None], styles: Sequence[str | None] | None) -> Outcomes:
    verdicts = Counter(correct[i] for i in indices)
    named = Counter(style for i in indices if styles is not None and (style := styles[i]) is not None)
    return Outcomes(
        n_right=verdicts[True],
        n_wrong=verdicts[False],
        n_unjudged=verdicts[None],
        styles=dict(sorted(named.items())),
    )


def _effect(
    name: str,
    values: ndarray | None,
    lengths: ndarray,
    right: ndarray,
    known: dict[str, ndarray],
    groups: ndarray,
    confidence: float,
) -> TrajectoryEffect:
    try:
        if values is None:
            found = partial_effect(lengths, right, {}, groups)
            return TrajectoryEffect(name=name, alone=found.alone, beside_text=None, within_problems=found.within)
        found = partial_effect(values, right, known, groups)
        strict = partial_effect(values, right, known, groups, confidence=confidence).within
    except DataError as error:
        return TrajectoryEffect(name=name, alone=None, beside_text=None, within_problems=None, dropped=error.message)
    return TrajectoryEffect(
        name=name,
        alone=found.alone,
        beside_text=found.effect,
        within_problems=found.within,
        beyond=strict.low > 0 or strict.high < 0,
    )


def rank_correlation(a: ndarray, b: ndarray) -> float:
    """Spearman's; nan where one of them is constant.

    >>> rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([3.0, 4.0, 5.0]))
    1.0
    """
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.asarray(spearmanr(a, b))[0])
