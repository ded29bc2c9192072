"""Paired statistics: two arms answer the same items, right or wrong, or with a score.

Only discordant pairs speak: b items turn from wrong to right, c from right to wrong, and under "no effect" b is
Binomial(b + c, 1/2) (McNemar's exact test). Intervals resample items, so that several samples of one item are not
taken for independent evidence; with such repetitions the test flips signs of whole items instead (a randomisation
test, equal to McNemar's when every item occurs once).
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.optimize import brentq
from scipy.stats import binom, norm
from statsmodels.stats.contingency_tables import mcnemar

from mechsteer.errors import DataError, ShapeError
from mechsteer.results import Interval, Result, cluster_weights, families

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class PairedComparison(Result):
    """Treated against base on the same items."""

    n: int
    """pairs"""
    n_items: int
    base_rate: float
    treated_rate: float
    difference: Interval
    """treated - base, a difference of proportions"""
    gained: int
    """wrong under base, right under treated"""
    lost: int
    """right under base, wrong under treated"""
    p_value: float
    """two-sided"""
    test: Literal["mcnemar_exact", "item_sign_flip"]
    detectable: float
    """size of difference that McNemar's test detects with 80 % power at this n and discordance, were all pairs
    independent; nan if none"""

    @property
    def discordance(self) -> float:
        """Share of pairs whose answers differ in correctness."""
        return (self.gained + self.lost) / self.n


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided exact p-value of McNemar's test; 1 without discordant pairs.

    >>> mcnemar_exact(9, 1)
    0.021484375
    """
    found: Any = mcnemar([[0, lost], [gained, 0]], exact=True)
    return float(found.pvalue)


def compare_paired(
    base: Bool[ndarray, " n_pairs"],
    treated: Bool[ndarray, " n_pairs"],
    items: ndarray | None = None,
    *,
    n_boot: int = 10_000,
    confidence: float = 0.95,
    alpha: float = 0.05,
    seed: int = 0,
) -> PairedComparison:
    """Compare two arms. `base` and `treated` say per pair whether the answer was right; `items [n_pairs]` names
    the problem of each pair (default: all different).

    Raises ShapeError (lengths differ, no pairs), DataError (values other than 0 and 1).
    """
    before, after, clusters = _pairs(base, treated, items)
    for name, values in (("base", before), ("treated", after)):
        if not np.isin(values, (0, 1)).all():
            raise DataError(
                f"{name} holds values other than 0 and 1.", "an answer is right or wrong; leave others out."
            )
    change = after.astype(int) - before.astype(int)
    size, net = np.bincount(clusters), np.bincount(clusters, change)
    weights, rng = resamples(len(size), n_boot, seed)
    gained, lost = int((change == 1).sum()), int((change == -1).sum())
    single = len(size) == len(change)
    return PairedComparison(
        n=len(change),
        n_items=len(size),
        base_rate=float(before.mean()),
        treated_rate=float(after.mean()),
        difference=Interval.from_draws(change.mean(), (weights @ net) / (weights @ size), confidence),
        gained=gained,
        lost=lost,
        p_value=mcnemar_exact(gained, lost) if single else sign_flip(net, n_boot, rng),
        test="mcnemar_exact" if single else "item_sign_flip",
        detectable=detectable_difference(len(change), (gained + lost) / len(change), alpha=alpha),
    )


@dataclass(frozen=True, kw_only=True)
class ScoreComparison(Result):
    """Treated against base on the same items, where an answer has a score."""

    n: int
    n_items: int
    difference: Interval
    """mean of treated - base"""
    p_value: float
    """two-sided"""
    test: Literal["item_sign_flip"] = "item_sign_flip"
    detectable: float
    """size of difference found with 80 % power (normal approximation, pairs independent); nan for one pair"""


def compare_scores(
    base: Float[ndarray, " n_pairs"],
    treated: Float[ndarray, " n_pairs"],
    items: ndarray | None = None,
    *,
    n_boot: int = 10_000,
    confidence: float = 0.95,
    alpha: float = 0.05,
    seed: int = 0,
) -> ScoreComparison:
    """As `compare_paired`, of scores instead of right and wrong: intervals resample items, the test flips their signs.

    Raises ShapeError (lengths differ, no pairs), DataError (NaN or infinity).
    """
    before, after, clusters = _pairs(base, treated, items)
    change = after.astype(float) - before.astype(float)
    if not np.isfinite(change).all():
        raise DataError("a score is NaN or infinite", "leave out items that have no score, in both arms")
    size, net = np.bincount(clusters), np.bincount(clusters, change)
    weights, rng = resamples(len(size), n_boot, seed)
    spread = change.std(ddof=1) / np.sqrt(len(change)) if len(change) > 1 else np.nan
    return ScoreComparison(
        n=len(change),
        n_items=len(size),
        difference=Interval.from_draws(change.mean(), (weights @ net) / (weights @ size), confidence),
        p_value=sign_flip(net, n_boot, rng),
        detectable=float(spread * (norm.isf(alpha / 2) + norm.isf(0.2))),
    )


def resamples(n_items: int, n_draws: int, seed: int) -> tuple[ndarray, np.random.Generator]:
    """`cluster_weights` of a seed and the generator as it is after drawing them.

    The draws are kept: an evaluation makes dozens of comparisons over the same items with the same seed.
    """
    weights, state = _resamples(n_items, n_draws, seed)
    rng = np.random.default_rng(seed)
    rng.bit_generator.state = state
    return weights, rng


@functools.lru_cache(maxsize=2)
def _resamples(n_items: int, n_draws: int, seed: int) -> tuple[ndarray, Any]:
    rng = np.random.default_rng(seed)
    weights = cluster_weights(n_items, n_draws, rng).astype(np.int32)
    weights.flags.writeable = False
    return weights, rng.bit_generator.state


def _pairs(base: ndarray, treated: ndarray, items: ndarray | None) -> tuple[ndarray, ndarray, ndarray]:
    """(base, treated, number of each pair's item)."""
    before, after = np.asarray(base), np.asarray(treated)
    keys = np.arange(len(before)) if items is None else np.asarray(items)
    if before.ndim != 1 or not before.shape == after.shape == keys.shape or not len(before):
        raise ShapeError(
            f"base {list(before.shape)}, treated {list(after.shape)}, items {list(keys.shape)} are not pairs.",
            "both arms answer the same items in the same order, one entry each.",
        )
    return before, after, np.unique(keys, return_inverse=True)[1]


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's step-down adjusted p-values of a family (family-wise error), in the given order; nan stays out.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted = families.holm(np.array(list(p_values.values()), dtype=float))
    return dict(zip(p_values, adjusted.tolist(), strict=True))


def mcnemar_power(n: int, discordance: float, difference: float, *, alpha: float = 0.05) -> float:
    """Power of the exact test for a true `difference` of proportions when a share `discordance` of n pairs differs.

    Exact: the number of discordant pairs is Binomial(n, discordance), the gains among them
    Binomial(m, (1 + difference / discordance) / 2). Raises DataError where |difference| > discordance.
    """
    if not abs(difference) <= discordance <= 1:
        raise DataError(
            f"a difference of {difference} is impossible when a share {discordance} of pairs differs.",
            "the difference of proportions is at most the discordance.",
        )
    m = np.arange(n + 1)
    # The largest k with 2 P(X <= k) <= alpha; ppf gives the first k that reaches it.
    critical = binom.ppf(alpha / 2, m, 0.5)
    critical = np.where(2 * binom.cdf(critical, m, 0.5) <= alpha, critical, critical - 1)
    gain = (1 + difference / discordance) / 2 if discordance else 0.5
    rejected = binom.cdf(critical, m, gain) + binom.sf(m - critical - 1, m, gain)
    rejected = np.where(critical >= 0, rejected, 0.0)
    return float(np.clip((binom.pmf(m, n, discordance) * rejected).sum(), 0.0, 1.0))


def detectable_difference(n: int, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference of proportions that n pairs detect with `power`; nan where none suffices.

    >>> round(detectable_difference(500, 0.2), 3)
    0.057
    """
    if not discordance or mcnemar_power(n, discordance, discordance, alpha=alpha) < power:
        return float("nan")
    root: Any = brentq(
        lambda size: mcnemar_power(n, discordance, size, alpha=alpha) - power, 0.0, discordance, xtol=1e-6
    )
    return float(root)


def sign_flip(net: ndarray, n_draws: int, rng: np.random.Generator) -> float:
    """Two-sided randomisation test: under "no effect" each item's net change may as well have the other sign."""
    moved = net[net != 0]
    signs = rng.integers(0, 2, size=(n_draws, len(moved))) * 2 - 1
    # the slack is for scores: their sums in another order differ in the last bits
    extreme = (np.abs(signs @ moved) >= abs(moved.sum()) * (1 - 1e-12)).sum()
    return float((extreme + 1) / (n_draws + 1))
