"""Does a probe read what it claims to? Held out by problem, beside baselines, within problems.

All scores are out of fold: folds are made of whole groups (a problem never sits on both sides), each row is scored
by the probe that did not see its problem. Intervals resample groups, not rows. The **within-group** AUROC compares
only right with wrong attempts at the same problem, so that knowing which problems are easy earns nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import StratifiedGroupKFold

from mechsteer.errors import DataError, NonFiniteError, ShapeError
from mechsteer.probes.linear import LinearProbe
from mechsteer.results import Interval, Result, cluster_weights

DRAWS_AT_ONCE = 64
N_BINS = 10


@dataclass(frozen=True, kw_only=True)
class ProbeScores(Result):
    """Out-of-fold scores of one set of features. Undefined values are nan."""

    auroc: Interval
    within_group_auroc: Interval
    """only pairs of one group; every pair counts the same"""
    n_mixed_groups: int
    """groups that hold both labels: what the within-group value rests on"""
    n_within_pairs: int
    accuracy: Interval
    brier: Interval
    """mean (p - y)²; always answering the base rate b scores b (1 - b)"""
    ece: float
    """expected calibration error over 10 bins of equal width"""


@dataclass(frozen=True, kw_only=True)
class ProbeEvaluation(Result):
    """A probe's scores, the same for each baseline, and what the probe has beyond them."""

    n_samples: int
    n_groups: int
    base_rate: float
    probe: ProbeScores
    baselines: dict[str, ProbeScores]
    gains: dict[str, Interval]
    """AUROC of the probe minus that of the baseline, on the same resamples"""
    within_group_gains: dict[str, Interval]
    shuffled: Interval
    """AUROC when labels are shuffled: mean, lowest, highest; near 0.5 unless something leaks"""
    scores: Float[ndarray, " n_samples"]
    """out-of-fold probability of the positive class"""
    folds: Int[ndarray, " n_samples"]


@dataclass(frozen=True, kw_only=True)
class PartialEffect(Result):
    """Logistic regression coefficient of a feature, in log-odds per standard deviation, beside covariates."""

    effect: Interval
    alone: Interval
    """the same without the covariates"""
    covariates: dict[str, Interval]
    dropped: tuple[str, ...]
    """covariates that do not vary"""
    n_samples: int
    n_groups: int


def grouped_folds(
    y: Int[ndarray, " n_samples"], groups: ndarray, *, n_splits: int = 5, seed: int = 0
) -> Int[ndarray, " n_samples"]:
    """Fold number of each row: whole groups, labels balanced as well as groups allow.

    Raises DataError (one class, fewer groups than folds, a fold whose complement has one class).

    >>> folds = grouped_folds(np.array([0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 2, 2]), n_splits=3)
    >>> sorted(folds.tolist()), bool((folds[::2] == folds[1::2]).all())
    ([0, 0, 1, 1, 2, 2], True)
    """
    y, groups = np.asarray(y), np.asarray(groups)
    _two_classes(y)
    n_groups = len(np.unique(groups))
    if n_groups < n_splits:
        raise DataError(f"{n_groups} groups cannot fill {n_splits} folds.", "collect more problems or lower n_splits.")
    folds = np.empty(len(y), dtype=int)
    splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    for fold, (train, test) in enumerate(splitter.split(np.zeros(len(y)), y, groups)):
        if len(np.unique(y[train])) < 2:
            raise DataError(
                f"without fold {fold} the labels are one class only.",
                "one class sits in very few groups: collect more of it, or change n_splits or the seed.",
            )
        folds[test] = fold
    return folds


def evaluate_probe(
    X: Float[ndarray, "n_samples d_model"],
    y: ndarray,
    groups: ndarray,
    *,
    probe: BaseEstimator | None = None,
    baselines: Mapping[str, ndarray] | None = None,
    n_splits: int = 5,
    n_boot: int = 1000,
    n_shuffles: int = 5,
    seed: int = 0,
) -> ProbeEvaluation:
    """Evaluate `probe` (any classifier with predict_proba; default: `LinearProbe()`) on activations.

    `groups [n_samples]` names each row's problem. `baselines` are what the probe must beat (length, number of
    steps, style, …): numbers [n_samples] or [n_samples n_features], or strings (one indicator per value); each is
    given to a logistic probe on the same folds.

    Raises ShapeError, NonFiniteError, DataError (one class only, too few groups).
    """
    X, labels, clusters = _checked(X, y, groups)
    folds = grouped_folds(labels, clusters, n_splits=n_splits, seed=seed)
    estimator: Any = LinearProbe() if probe is None else probe
    rng = np.random.default_rng(seed)
    weights = cluster_weights(clusters.max() + 1, n_boot, rng)

    scores = _out_of_fold(estimator, X, labels, folds)
    result, draws = _scores(scores, labels, clusters, weights)
    others, gains, within_gains = {}, {}, {}
    for name, values in (baselines or {}).items():
        features = _features(name, values, len(labels))
        other, other_draws = _scores(_out_of_fold(LinearProbe(), features, labels, folds), labels, clusters, weights)
        others[name] = other
        gains[name] = Interval.from_draws(result.auroc.value - other.auroc.value, draws[0] - other_draws[0])
        within_gains[name] = Interval.from_draws(
            result.within_group_auroc.value - other.within_group_auroc.value, draws[1] - other_draws[1]
        )
    shuffled = np.array([_shuffled_auroc(estimator, X, labels, clusters, n_splits, rng) for _ in range(n_shuffles)])
    return ProbeEvaluation(
        n_samples=len(labels),
        n_groups=int(clusters.max() + 1),
        base_rate=float(labels.mean()),
        probe=result,
        baselines=others,
        gains=gains,
        within_group_gains=within_gains,
        shuffled=Interval.from_draws(shuffled.mean() if n_shuffles else np.nan, shuffled, confidence=1.0),
        scores=scores,
        folds=folds,
    )


def weighted_auroc(scores: Float[ndarray, " n_samples"], y: ndarray, weights: ndarray) -> Float[ndarray, " n_draws"]:
    """AUROC with row weights [n_draws n_samples], ties counting one half; nan where a class has no weight.

    >>> weighted_auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]), np.ones((1, 4))).tolist()
    [0.875]
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    positive = np.add.reduceat(np.where(y[order] == 1, weights[:, order], 0), starts, axis=1)
    negative = np.add.reduceat(np.where(y[order] == 1, 0, weights[:, order]), starts, axis=1)
    below = negative.cumsum(1) - negative / 2
    pairs = positive.sum(1) * negative.sum(1)
    return np.where(pairs > 0, (positive * below).sum(1) / np.where(pairs > 0, pairs, 1), np.nan)


def partial_effect(
    feature: Float[ndarray, " n_samples"],
    y: ndarray,
    covariates: Mapping[str, ndarray],
    groups: ndarray,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> PartialEffect:
    """What a feature says about the label beyond covariates: "does H0 entropy predict correctness beyond length?"

    Maximum-likelihood logistic regression on standardised columns; the interval resamples groups. A resample
    in which the classes are separated (the coefficient is infinite) or a column is constant is undefined, counted,
    and left out; a value that is itself undefined is nan.

    Raises ShapeError, NonFiniteError, DataError (one class, a constant feature, columns that determine each other).
    """
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in covariates.items()}
    stacked, labels, clusters = _checked(
        np.column_stack([np.asarray(feature, np.float64), *columns.values()]), y, groups
    )
    _two_classes(labels)
    spread = stacked.std(0)
    if spread[0] == 0:
        raise DataError("the feature is the same for every row.", "it can predict nothing: check how it was computed.")
    kept = [name for name, deviation in zip(columns, spread[1:], strict=True) if deviation > 0]
    design = ((stacked - stacked.mean(0)) / np.where(spread > 0, spread, 1.0))[:, spread > 0]
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise DataError(
            f"the feature and {kept} are linearly dependent: their effects cannot be told apart.",
            "leave out the covariate that the others determine.",
        )
    weights = cluster_weights(clusters.max() + 1, n_boot, np.random.default_rng(seed))
    full, alone = (_coefficients(part, labels, clusters, weights) for part in (design, design[:, :1]))
    return PartialEffect(
        effect=full[0],
        alone=alone[0],
        covariates=dict(zip(kept, full[1:], strict=True)),
        dropped=tuple(name for name in columns if name not in kept),
        n_samples=len(labels),
        n_groups=int(clusters.max() + 1),
    )


def _coefficients(design: ndarray, labels: ndarray, clusters: ndarray, weights: ndarray) -> list[Interval]:
    value = _logistic(design, labels, np.ones(len(labels)))
    draws = np.array([_logistic(design, labels, row[clusters]) for row in weights]).reshape(-1, len(value))
    return [Interval.from_draws(value[column], draws[:, column]) for column in range(1, len(value))]


def _logistic(design: ndarray, labels: ndarray, weights: ndarray) -> Float[ndarray, " n_coefficients"]:
    """Weighted maximum likelihood by Newton's method; intercept first. All nan where there is no finite maximum."""
    columns = np.column_stack([np.ones(len(design)), design])
    beta = np.zeros(columns.shape[1])
    undefined = np.full_like(beta, np.nan)
    for _ in range(30):
        logits = columns @ beta
        p = 0.5 * (1 + np.tanh(logits / 2))
        hessian = (columns * (weights * p * (1 - p))[:, None]).T @ columns
        if np.linalg.cond(hessian) > 1e10:
            return undefined
        step = np.linalg.solve(hessian, columns.T @ (weights * (labels - p)))
        beta = beta + step
        if np.abs(step).max() < 1e-9:
            return beta
    return undefined  # separated classes: each step goes about one further, for ever


def _checked(X: ndarray, y: ndarray, groups: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """X as floats, labels as 0/1, groups as 0 … n_groups - 1."""
    X, y, groups = np.asarray(X), np.asarray(y), np.asarray(groups)
    if X.ndim != 2 or y.shape != (len(X),) or groups.shape != (len(X),):
        raise ShapeError(
            f"X {list(X.shape)}, y {list(y.shape)}, groups {list(groups.shape)} do not fit together.",
            "X is [n_samples d_model]; y and groups have one entry per row.",
        )
    if not np.isfinite(X).all():
        row = int(np.flatnonzero(~np.isfinite(X).all(1))[0])
        raise NonFiniteError(f"row {row} of the features holds NaN or infinity.", "leave out rows that have no value.")
    _two_classes(y)
    return X, np.unique(y, return_inverse=True)[1], np.unique(groups, return_inverse=True)[1]


def _two_classes(y: ndarray) -> None:
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) != 2:
        found = ", ".join(f"{label} ({count} rows)" for label, count in zip(classes[:5], counts[:5], strict=True))
        raise DataError(
            f"two classes are needed; the labels hold {len(classes)}: {found or 'nothing'}.",
            "if every answer is right (or wrong), sample harder (easier) problems, or more traces per problem.",
        )


def _features(name: str, values: ndarray, n_samples: int) -> Float[ndarray, "n_samples n_features"]:
    values = np.asarray(values)
    if values.ndim not in (1, 2) or len(values) != n_samples:
        raise ShapeError(
            f"baseline {name!r} has shape {list(values.shape)} for {n_samples} samples.",
            "one number, string or row of numbers per sample.",
        )
    if values.dtype.kind in "OUS":
        return (values.reshape(n_samples, -1)[:, :1] == np.unique(values)).astype(np.float64)
    values = values.reshape(n_samples, -1).astype(np.float64)
    if not np.isfinite(values).all():
        raise NonFiniteError(f"baseline {name!r} holds NaN or infinity.", "leave out rows that have no value.")
    return values


def _out_of_fold(estimator: Any, X: ndarray, labels: ndarray, folds: ndarray) -> Float[ndarray, " n_samples"]:
    scores = np.empty(len(labels))
    for fold in np.unique(folds):
        test = folds == fold
        fitted: Any = clone(estimator)
        scores[test] = fitted.fit(X[~test], labels[~test]).predict_proba(X[test])[:, 1]
    return scores


def _shuffled_auroc(
    estimator: Any, X: ndarray, labels: ndarray, clusters: ndarray, n_splits: int, rng: np.random.Generator
) -> float:
    shuffled = rng.permutation(labels)
    folds = grouped_folds(shuffled, clusters, n_splits=n_splits, seed=int(rng.integers(2**31)))
    scores = _out_of_fold(estimator, X, shuffled, folds)
    return float(weighted_auroc(scores, shuffled, np.ones((1, len(labels))))[0])


def _scores(
    scores: ndarray, labels: ndarray, clusters: ndarray, weights: ndarray
) -> tuple[ProbeScores, tuple[ndarray, ndarray]]:
    """Scores and the bootstrap draws of (AUROC, within-group AUROC), for paired differences."""
    once = np.ones((1, len(labels)))
    draws = np.concatenate(
        [np.empty(0)]
        + [
            weighted_auroc(scores, labels, weights[start : start + DRAWS_AT_ONCE][:, clusters])
            for start in range(0, len(weights), DRAWS_AT_ONCE)
        ]
    )
    pairs, won = _within_pairs(scores, labels, clusters)
    within = _ratio(won.sum(keepdims=True), pairs.sum(keepdims=True))[0]
    within_draws = _ratio(weights @ won, weights @ pairs)
    size = np.bincount(clusters)

    def mean(values: ndarray) -> Interval:
        total = np.bincount(clusters, values)
        return Interval.from_draws(values.mean(), (weights @ total) / (weights @ size))

    result = ProbeScores(
        auroc=Interval.from_draws(weighted_auroc(scores, labels, once)[0], draws),
        within_group_auroc=Interval.from_draws(within, within_draws),
        n_mixed_groups=int((pairs > 0).sum()),
        n_within_pairs=int(pairs.sum()),
        accuracy=mean(((scores > 0.5) == labels).astype(float)),
        brier=mean((scores - labels) ** 2),
        ece=_calibration_error(scores, labels),
    )
    return result, (draws, within_draws)


def _within_pairs(scores: ndarray, labels: ndarray, clusters: ndarray) -> tuple[ndarray, ndarray]:
    """Per group: number of (positive, negative) pairs, and how many the scores order rightly (ties: half)."""
    n_groups = clusters.max() + 1
    pairs, won = np.zeros(n_groups), np.zeros(n_groups)
    order = np.argsort(clusters, kind="stable")
    for group, rows in enumerate(np.split(order, np.cumsum(np.bincount(clusters))[:-1])):
        positive, negative = scores[rows[labels[rows] == 1]], scores[rows[labels[rows] == 0]]
        pairs[group] = len(positive) * len(negative)
        won[group] = (np.sign(positive[:, None] - negative) / 2 + 0.5).sum()
    return pairs, won


def _ratio(part: ndarray, whole: ndarray) -> ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _calibration_error(scores: ndarray, labels: ndarray) -> float:
    bins = np.minimum((scores * N_BINS).astype(int), N_BINS - 1)
    gaps = np.bincount(bins, scores - labels, minlength=N_BINS)
    return float(np.abs(gaps).sum() / len(scores))
