"""Figures of a dose-response curve, from scores alone.

A score is a question's log-odds of yes, signed by what a yes says about the value (+1 serves it, −1 violates it); nan
where the model did not answer. `scores` are [n_coeffs n_rows], `labels` [n_rows] of +1 and −1, `groups` [n_rows] numbers
of situations, which intervals resample. Every mean is that of both labels' means, so that a constant answer scores 0
also where rows of one label are undefined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from scipy import stats

from mechsteer.evaluation.paired import resamples
from mechsteer.results import Interval, Result

LEAST_VALID = 0.8
SMOOTH_OVER = 2.0


@dataclass(frozen=True, kw_only=True)
class Slope(Result):
    """Mean over situations of each one's own least-squares slope over −1 <= c <= 1, and whether it is 0 (t-test)."""

    value: float
    """nats per unit of coefficient"""
    t: float
    p_value: float
    """two-sided"""
    n: int
    """situations"""


def balanced_mean(values: ndarray, labels: ndarray, weights: ndarray | None = None) -> ndarray:
    """The mean of the means of both labels [...] of `values` [n_rows], nan left out; of one label where there is one.

    `weights` [n_draws n_rows] gives [n_draws]. nan where a label has no defined value.

    >>> float(balanced_mean(np.array([3.0, 3.0, -3.0]), np.array([1, 1, -1])))
    0.0
    """
    known = np.isfinite(values)
    held = np.where(known, values, 0.0)
    by = known[None].astype(float) if weights is None else weights * known
    sides = [np.where(labels == label, 1.0, 0.0) for label in (1, -1) if (labels == label).any()]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [(by @ (held * side)) / (by @ side) for side in sides]
    found = np.mean(means, axis=0)
    return found[0] if weights is None else found


def mean_interval(values: ndarray, labels: ndarray, groups: ndarray, *, n_boot: int, seed: int) -> Interval:
    """`balanced_mean` with its 95 % bootstrap interval over groups."""
    weights = resamples(int(groups.max()) + 1, n_boot, seed)[0]
    return Interval.from_draws(float(balanced_mean(values, labels)), balanced_mean(values, labels, weights[:, groups]))


def slope(coeffs: ndarray, scores: ndarray, groups: ndarray) -> Slope:
    """See `Slope`; rows that are undefined at a coefficient within [−1, 1] are left out, and nan is what is left of none."""
    near = np.abs(coeffs) <= 1
    c, s = coeffs[near] - coeffs[near].mean(), scores[near]
    each = (c @ s) / (c @ c)  # a constant of the row drops out: c is centred
    known = np.isfinite(each)
    if not known.any():
        return Slope(value=math.nan, t=math.nan, p_value=math.nan, n=0)
    numbers = np.unique(groups[known], return_inverse=True)[1]
    means = np.bincount(numbers, each[known]) / np.bincount(numbers)
    n, mean = len(means), float(means.mean())
    error = float(means.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    t = mean / error if error > 0 else math.copysign(math.inf, mean) if error == 0 and mean else math.nan
    return Slope(value=mean, t=t, p_value=float(2 * stats.t.sf(abs(t), max(n - 1, 1))), n=n)


def rank_correlation(coeffs: ndarray, scores: ndarray) -> float:
    """Spearman's ρ of coefficient and score over all rows at c = −1, 0 and 1; nan without three of them that differ."""
    chosen = np.isin(coeffs, (-1.0, 0.0, 1.0))
    c = np.repeat(coeffs[chosen], scores.shape[1])
    s = scores[chosen].ravel()
    c, s = c[np.isfinite(s)], s[np.isfinite(s)]
    if len(np.unique(c)) < 2 or len(np.unique(s)) < 2:
        return math.nan
    return float(stats.spearmanr(c, s).statistic)  # pyright: ignore[reportAttributeAccessIssue]  # scipy's result is a namedtuple


def sign_of(change: ndarray, labels: ndarray) -> int:
    """−1 where the balanced mean of s(1) − s(−1) is below 0, else 1."""
    return -1 if balanced_mean(change, labels) < 0 else 1


def coherent_range(coeffs: ndarray, valid: ndarray, least: float = LEAST_VALID) -> tuple[float, float] | None:
    """The lowest and highest coefficient reached from 0 through ones with a share `least` of valid answers.

    `coeffs` rise. None where 0 has fewer itself.
    """
    zero = int(np.flatnonzero(coeffs == 0)[0])
    if valid[zero] < least:
        return None
    low = high = zero
    while low > 0 and valid[low - 1] >= least:
        low -= 1
    while high + 1 < len(coeffs) and valid[high + 1] >= least:
        high += 1
    return float(coeffs[low]), float(coeffs[high])


def falls(
    coeffs: ndarray, scores: ndarray, labels: ndarray, groups: ndarray, within: tuple[float, float], **how: int
) -> tuple[tuple[float, float], ...]:
    """Steps (c, next c) within a range over which the score falls: the whole interval of the change is below 0."""
    found = []
    for i in range(len(coeffs) - 1):
        if within[0] <= coeffs[i] and coeffs[i + 1] <= within[1]:
            change = mean_interval(scores[i + 1] - scores[i], labels, groups, **how)
            if change.high < 0:
                found.append((float(coeffs[i]), float(coeffs[i + 1])))
    return tuple(found)


def smoothness(coeffs: ndarray, means: Sequence[float] | ndarray) -> float:
    """R² of a straight line through the mean scores over |c| <= 2: 1 is proportional, a jump or a turn is less.

    nan where fewer than three are defined, or all are the same.

    >>> round(smoothness(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), [-4.0, -2.0, 0.0, 2.0, 4.0]), 6)
    1.0
    """
    values = np.asarray(means, dtype=float)
    near = (np.abs(coeffs) <= SMOOTH_OVER) & np.isfinite(values)
    if near.sum() < 3 or np.ptp(values[near]) == 0:
        return math.nan
    return float(np.corrcoef(coeffs[near], values[near])[0, 1] ** 2)


def per_log_parameters(effect: float, n_parameters: int | None) -> float:
    """effect / ln(parameters); nan where none were trained (or one, whose logarithm is 0)."""
    return effect / math.log(n_parameters) if n_parameters is not None and n_parameters > 1 else math.nan


def normalised_gain(effect: float, rho: float, delta_nll: float) -> float:
    """100 · effect · max(0, ρ) / (1 + max(0, ΔNLL)); nan where one of the three is.

    >>> normalised_gain(2.0, 0.5, 1.0), normalised_gain(2.0, -0.5, 0.0)
    (50.0, 0.0)
    """
    if math.isnan(effect) or math.isnan(rho) or math.isnan(delta_nll):
        return math.nan
    return 100 * effect * max(0.0, rho) / (1 + max(0.0, delta_nll))


def first_reaching(coeffs: ndarray, losses: ndarray, target: float) -> float:
    """The smallest c >= 0 at which the losses, linear between the coefficients, reach `target`; nan where they never do."""
    ahead = coeffs >= 0
    c, loss = coeffs[ahead], losses[ahead]
    for i in range(len(c)):
        if loss[i] >= target:
            if i == 0 or not np.isfinite(loss[i - 1]):
                return float(c[i])
            return float(c[i - 1] + (target - loss[i - 1]) / (loss[i] - loss[i - 1]) * (c[i] - c[i - 1]))
    return math.nan
