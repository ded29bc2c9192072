"""Scores of right and wrong tested block by block: AUROC over all rows and within groups, with honest intervals.

Groups are put into blocks in random order, and a block is scored by a probe that was trained on the blocks **before**
it. So of any two groups at most one was trained on when the other was tested; given what came before, each
block's AUROC deviates from the true one of its own probe with mean 0. Such deviations do not correlate (they are
martingale differences, as in prequential testing, Dawid 1984), their variances add up, and a bootstrap
of groups within blocks sees them. In k-fold cross-validation every pair of groups counts twice, once each way, and
intervals of a probe of pure noise are too short by √2 (Bengio & Grandvalet 2004). Only rows of one block are
compared: scores of different probes have no common scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import expit, logit
from scipy.stats import t as student
from sklearn.model_selection import StratifiedGroupKFold

from mechsteer.errors import DataError, NonFiniteError, ShapeError
from mechsteer.results import Interval, Result

DRAWS_AT_ONCE = 64
N_BINS = 10
UNTESTED = -1


@dataclass(frozen=True, kw_only=True)
class ProbeScores(Result):
    """Scores of one set of features on rows of groups that it was not trained on. Undefined values are nan."""

    auroc: Interval
    """pairs of one block only"""
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


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws [n_draws] of the two AUROCs, for paired differences, and the degrees of freedom behind them."""

    auroc: ndarray
    within: ndarray
    free: int


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
    two_classes(y)
    n_groups = len(np.unique(groups))
    if n_groups < n_splits:
        raise DataError(f"{n_groups} groups cannot fill {n_splits} folds.", "collect more problems or lower n_splits.")
    folds = np.empty(len(y), dtype=int)
    splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    for fold, (train, test) in enumerate(splitter.split(np.zeros(len(y)), y, groups)):
        _both_to_train(y[train], fold)
        folds[test] = fold
    return folds


def ordered_blocks(
    y: Int[ndarray, " n_samples"], groups: ndarray, *, n_splits: int = 5, seed: int = 0
) -> Int[ndarray, " n_samples"]:
    """Block number of each row: 0 … n_splits - 1 are tested, each by what is trained on all rows of a lower number.

    −1 marks what is only trained on, three parts of the size of a block for five blocks. Raises as `grouped_folds`.

    >>> blocks = ordered_blocks(np.arange(32) % 2, np.arange(32) // 2, n_splits=5)
    >>> np.unique(blocks, return_counts=True)[1].tolist()
    [12, 4, 4, 4, 4, 4]
    """
    first = -(-3 * n_splits // 5)
    blocks = np.maximum(grouped_folds(y, groups, n_splits=n_splits + first, seed=seed) - first, UNTESTED)
    for block in range(n_splits):
        _both_to_train(np.asarray(y)[blocks < block], block)
    return blocks


def weighted_auroc(scores: Float[ndarray, " n_samples"], y: ndarray, weights: ndarray) -> Float[ndarray, " n_draws"]:
    """AUROC with row weights [n_draws n_samples], ties counting one half; nan where a class has no weight.

    >>> weighted_auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]), np.ones((1, 4))).tolist()
    [0.875]
    """
    return _ratio(*_won(scores, y, weights))


def _won(scores: ndarray, y: ndarray, weights: ndarray) -> tuple[ndarray, ndarray]:
    """Weighted (positive, negative) pairs that the scores order rightly (ties: half), and all of them; [n_draws]."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    positive = np.add.reduceat(np.where(y[order] == 1, weights[:, order], 0), starts, axis=1)
    negative = np.add.reduceat(np.where(y[order] == 1, 0, weights[:, order]), starts, axis=1)
    below = negative.cumsum(1) - negative / 2
    return (positive * below).sum(1), positive.sum(1) * negative.sum(1)


def block_weights(blocks: ndarray, clusters: ndarray, n_boot: int, rng: np.random.Generator) -> ndarray:
    """Resampled weight of each group, [n_boot n_groups]: m − 1 of the m groups of a tested block are drawn and weigh
    m / (m − 1), which makes the variance unbiased where blocks are small (Rao & Wu 1988)."""
    of_group = np.full(clusters.max() + 1, UNTESTED)
    of_group[clusters] = blocks
    weights = np.zeros((n_boot, len(of_group)))
    for block in range(blocks.max() + 1):
        members = np.flatnonzero(of_group == block)
        m = len(members)
        weights[:, members] = rng.multinomial(m - 1, np.full(m, 1 / m), n_boot) * (m / (m - 1)) if m > 1 else 1.0
    return weights


def probe_scores(
    scores: ndarray, labels: ndarray, clusters: ndarray, blocks: ndarray, weights: ndarray
) -> tuple[ProbeScores, Draws]:
    """Scores of the tested rows, with `weights [n_boot n_groups]` of `block_weights`."""
    tested = blocks >= 0
    won, pairs = np.zeros(len(weights) + 1), np.zeros(len(weights) + 1)
    for block in range(blocks.max() + 1):
        rows = np.flatnonzero(blocks == block)
        once = np.ones((1, clusters.max() + 1))
        every = np.concatenate([once, weights])[:, clusters[rows]]
        parts = [
            _won(scores[rows], labels[rows], every[at : at + DRAWS_AT_ONCE])
            for at in range(0, len(every), DRAWS_AT_ONCE)
        ]
        won += np.concatenate([part[0] for part in parts])
        pairs += np.concatenate([part[1] for part in parts])
    overall = _ratio(won, pairs)
    p, y, of_group = scores[tested], labels[tested], clusters[tested]
    n_pairs, n_won = within_pairs(p, y, of_group, clusters.max() + 1)
    within = _ratio(n_won.sum(keepdims=True), n_pairs.sum(keepdims=True))[0]
    within_draws = _ratio(weights @ n_won, weights @ n_pairs)
    size = weights @ np.bincount(of_group, minlength=clusters.max() + 1)

    def mean(values: ndarray) -> Interval:
        total = np.bincount(of_group, values, minlength=clusters.max() + 1)
        return Interval.from_draws(values.mean(), (weights @ total) / size)

    free = max(1, len(np.unique(of_group)) - len(np.unique(blocks[tested])))
    result = ProbeScores(
        auroc=share_interval(overall[0], overall[1:], free),
        within_group_auroc=share_interval(within, within_draws, free),
        n_mixed_groups=int((n_pairs > 0).sum()),
        n_within_pairs=int(n_pairs.sum()),
        accuracy=mean(((p > 0.5) == y).astype(float)),
        brier=mean((p - y) ** 2),
        ece=calibration_error(p, y),
    )
    return result, Draws(auroc=overall[1:], within=within_draws, free=free)


def share_interval(value: float, draws: Float[ndarray, " n_draws"], free: int) -> Interval:
    """95 % interval of a share: Student's t with the spread of the draws, on the logit scale, whose ends are not passed.

    Percentiles of the draws are too narrow near 1 (coverage .88 at an AUROC of .91 and 25 groups, this one .97).
    A value of 0 or 1 keeps the percentiles.
    """
    if not 0 < value < 1:
        return Interval.from_draws(value, draws)
    n_undefined = int(np.isnan(draws).sum())
    half = student.isf(0.025, free) * _spread(draws) / (value * (1 - value))
    low, high = expit(logit(value) - half), expit(logit(value) + half)
    return Interval(value=float(value), low=float(low), high=float(high), n_undefined=n_undefined)


def difference_interval(value: float, draws: Float[ndarray, " n_draws"], free: int) -> Interval:
    """95 % interval of a difference: Student's t with the spread of the draws."""
    half = float(student.isf(0.025, free) * _spread(draws))
    return Interval(value=value, low=value - half, high=value + half, n_undefined=int(np.isnan(draws).sum()))


def _spread(draws: ndarray) -> float:
    defined = draws[np.isfinite(draws)]
    return float(defined.std()) if len(defined) else float("nan")


def within_pairs(scores: ndarray, labels: ndarray, clusters: ndarray, n_groups: int) -> tuple[ndarray, ndarray]:
    """Per group: number of (positive, negative) pairs, and how many the scores order rightly (ties: half)."""
    pairs, won = np.zeros(n_groups), np.zeros(n_groups)
    order = np.argsort(clusters, kind="stable")
    found, starts = np.unique(clusters[order], return_index=True)
    for group, rows in zip(found, np.split(order, starts[1:]), strict=True):
        positive, negative = scores[rows[labels[rows] == 1]], scores[rows[labels[rows] == 0]]
        pairs[group] = len(positive) * len(negative)
        won[group] = (np.sign(positive[:, None] - negative) / 2 + 0.5).sum()
    return pairs, won


def within_auroc(scores: ndarray, labels: ndarray, clusters: ndarray) -> float:
    """The within-group AUROC alone."""
    pairs, won = within_pairs(scores, labels, clusters, clusters.max() + 1)
    return float(_ratio(won.sum(keepdims=True), pairs.sum(keepdims=True))[0])


def calibration_error(scores: ndarray, labels: ndarray, n_bins: int = N_BINS) -> float:
    """Mean |confidence − frequency| over bins of equal width, weighted by their rows."""
    bins = np.minimum((scores * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, scores - labels, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(scores))


def checked_rows(X: ndarray, y: ndarray, groups: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """X as an array, labels as 0/1, groups as 0 … n_groups - 1. Raises ShapeError, NonFiniteError, DataError."""
    X, y, groups = np.asarray(X), np.asarray(y), np.asarray(groups)
    if X.ndim != 2 or y.shape != (len(X),) or groups.shape != (len(X),):
        raise ShapeError(
            f"X {list(X.shape)}, y {list(y.shape)}, groups {list(groups.shape)} do not fit together.",
            "X is [n_samples d_model]; y and groups have one entry per row.",
        )
    if not np.isfinite(X).all():
        row = int(np.flatnonzero(~np.isfinite(X).all(1))[0])
        raise NonFiniteError(f"row {row} of the features holds NaN or infinity.", "leave out rows that have no value.")
    two_classes(y)
    return X, np.unique(y, return_inverse=True)[1], np.unique(groups, return_inverse=True)[1]


def two_classes(y: ndarray) -> None:
    """Raises DataError for labels of another number of classes than two."""
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) != 2:
        found = ", ".join(f"{label} ({count} rows)" for label, count in zip(classes[:5], counts[:5], strict=True))
        raise DataError(
            f"two classes are needed; the labels hold {len(classes)}: {found or 'nothing'}.",
            "if every answer is right (or wrong), sample harder (easier) problems, or more traces per problem.",
        )


def _both_to_train(y: ndarray, fold: int) -> None:
    if len(np.unique(y)) < 2:
        raise DataError(
            f"what is trained on for fold {fold} has labels of one class only.",
            "one class sits in very few groups: collect more of it, or change n_splits or the seed.",
        )


def _ratio(part: ndarray, whole: ndarray) -> ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)
