"""Does a probe read what it claims to? Tested on later problems, beside all that the text itself says.

- Every score is of a row whose group (problem) the probe has not seen; intervals resample groups, and they hold for
  a probe of pure noise too (`mechsteer.probes.scores`).
- The **within-group** AUROC compares only right with wrong attempts at the same problem, so that knowing which problems
  are easy earns nothing. The p-value permutes labels within problems (`mechsteer.probes.permutation`).
- Baselines are what is known without the model's states: lengths (as curves), styles, token counts, … All of
  them in one logistic regression are the baseline `TOGETHER`. What the states know beyond the text is `beyond`: probe and
  text in one regression against the text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.base import BaseEstimator, clone

from mechsteer.probes.calibration import CalibrationCurve, calibration_curve
from mechsteer.probes.columns import Known, TokenCounts, checked, columns
from mechsteer.probes.linear import LinearProbe
from mechsteer.probes.permutation import permutation_p, permuted_auroc
from mechsteer.probes.scores import (
    Draws,
    ProbeScores,
    block_weights,
    checked_rows,
    difference_interval,
    ordered_blocks,
    probe_scores,
)
from mechsteer.results import Interval, Result
from mechsteer.results.frames import rows_of

TOGETHER = "together"

Columns = Callable[[ndarray], ndarray]
"""(rows trained on) -> columns of all rows"""


@dataclass(frozen=True, kw_only=True)
class ProbeEvaluation(Result):
    """A probe's scores, the same for each baseline, and what the probe has beyond them."""

    n_samples: int
    n_groups: int
    base_rate: float
    probe: ProbeScores
    baselines: dict[str, ProbeScores]
    """each baseline alone, and all of them together where there are several"""
    gains: dict[str, Interval]
    """AUROC of the probe minus that of the baseline, on the same resamples"""
    within_group_gains: dict[str, Interval]
    joint: ProbeScores | None = None
    """probe and all baselines in one regression"""
    beyond: Interval | None = None
    """within-group AUROC of `joint` minus that of all baselines together: what the states know beyond the text"""
    shuffled: Interval
    """within-group AUROC of a ridge probe whose labels are permuted within groups: mean, lowest, highest"""
    p_value: float = float("nan")
    """one-sided, of a ridge probe's within-group AUROC among these; nan where no tested group holds both labels"""
    scores: Float[ndarray, " n_samples"]
    """probability of the positive class; nan for rows that are only trained on"""
    folds: Int[ndarray, " n_samples"]
    """block of each row; it is scored by what was trained on lower numbers, and −1 is only trained on"""
    calibration: CalibrationCurve | None = None
    """of the probe on the rows tested; None in results of a version without it"""

    @property
    def text(self) -> str:
        """The baseline that all others are part of; empty without baselines."""
        return TOGETHER if TOGETHER in self.baselines else next(iter(self.baselines), "")

    def frame(self) -> pd.DataFrame:
        """One row per predictor with all its scores: the probe, each baseline, and both together where there is that."""
        joint = {} if self.joint is None else {"joint": self.joint}
        return rows_of({"probe": self.probe, **self.baselines, **joint})


def evaluate_probe(
    X: Float[ndarray, "n_samples d_model"],
    y: ndarray,
    groups: ndarray,
    *,
    probe: BaseEstimator | None = None,
    baselines: Mapping[str, ndarray | TokenCounts] | None = None,
    n_splits: int = 5,
    n_boot: int = 1000,
    n_permutations: int = 999,
    seed: int = 0,
) -> ProbeEvaluation:
    """Evaluate `probe` (any classifier with predict_proba; default: `LinearProbe()`) on activations.

    `groups [n_samples]` names each row's problem. `baselines` are what the probe must beat (length, number of
    steps, style, …): numbers [n_samples] or [n_samples n_features], which enter as curves, strings, or `TokenCounts`; each is
    given to a logistic probe on the same blocks. `n_splits` blocks are tested, five eighths of all groups.

    Raises ShapeError, NonFiniteError, DataError (one class only, too few groups).
    """
    X, labels, clusters = checked_rows(X, y, groups)
    known = {name: checked(name, values, len(labels)) for name, values in (baselines or {}).items()}
    blocks = ordered_blocks(labels, clusters, n_splits=n_splits, seed=seed)
    estimator: Any = LinearProbe() if probe is None else probe
    rng = np.random.default_rng(seed)
    weights = block_weights(blocks, clusters, n_boot, rng)

    def scored(model: Any, made: Columns) -> tuple[ndarray, ProbeScores, Draws]:
        scores = scores_of_later_blocks(model, made, labels, blocks)
        return scores, *probe_scores(scores, labels, clusters, blocks, weights)

    scores, result, draws = scored(estimator, lambda _train: X)
    parts = {name: cached_columns(values) for name, values in known.items()}
    if len(parts) > 1:
        parts[TOGETHER] = stacked_columns(list(parts.values()))
    others, gains, within_gains, joint, beyond = {}, {}, {}, None, None
    for name, made in parts.items():
        _, others[name], other = scored(LinearProbe(), made)
        gains[name] = _difference(result.auroc, others[name].auroc, draws.auroc - other.auroc, other.free)
        within_gains[name] = _difference(
            result.within_group_auroc, others[name].within_group_auroc, draws.within - other.within, other.free
        )
        if name == list(parts)[-1]:  # the widest
            _, joint, both = scored(estimator, stacked_columns([lambda _train: X, made]))
            beyond = _difference(
                joint.within_group_auroc, others[name].within_group_auroc, both.within - other.within, other.free
            )
    value, permuted = permuted_auroc(X, labels, clusters, blocks, n_permutations=n_permutations, seed=seed)
    return ProbeEvaluation(
        n_samples=len(labels),
        n_groups=int(clusters.max() + 1),
        base_rate=float(labels.mean()),
        probe=result,
        baselines=others,
        gains=gains,
        within_group_gains=within_gains,
        joint=joint,
        beyond=beyond,
        shuffled=Interval.from_draws(permuted.mean() if len(permuted) else np.nan, permuted, confidence=1.0),
        p_value=permutation_p(value, permuted),
        scores=scores,
        folds=blocks,
        calibration=calibration_curve(
            scores[blocks >= 0], labels[blocks >= 0], clusters[blocks >= 0], n_boot=n_boot, seed=seed
        ),
    )


def scores_of_later_blocks(
    estimator: Any, made: Columns, labels: Int[ndarray, " n_samples"], blocks: Int[ndarray, " n_samples"]
) -> Float[ndarray, " n_samples"]:
    """Probability of the positive class for every row of a tested block, by a fresh copy of `estimator` fitted on all
    blocks before it; nan for the others. `made(train)` gives the columns, fitted on the rows of `train`."""
    scores = np.full(len(labels), np.nan)
    for block in range(blocks.max() + 1):
        train, test = blocks < block, blocks == block
        features = made(train)
        fitted: Any = clone(estimator)
        scores[test] = fitted.fit(features[train], labels[train]).predict_proba(features[test])[:, 1]
    return scores


def cached_columns(values: Known) -> Columns:
    """The columns of a baseline, made once for each set of training rows (every block asks several times)."""
    kept: dict[bytes, ndarray] = {}

    def made(train: ndarray) -> ndarray:
        key = train.tobytes()
        if key not in kept:
            kept[key] = columns(values, train)
        return kept[key]

    return made


def stacked_columns(parts: list[Columns]) -> Columns:
    """The columns of several, side by side."""
    return lambda train: np.column_stack([part(train) for part in parts])


def _difference(value: Interval, other: Interval, draws: ndarray, free: int) -> Interval:
    return difference_interval(value.value - other.value, draws, free)
