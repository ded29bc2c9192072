"""One result over several adapter seeds: the same training with other random numbers, each scored on the same items.

The estimate is the mean over seeds of treated − base. Every seed answers the same items, so that the mean varies by
training (σ²_s over S seeds), by problem (σ²_i over n items), and by what is of one seed on one item alone. With the mean
squares of a two-way table without repetitions, each divided by n S,

    V = V_seeds + V_items − V_alone,    E V = σ²_s / S + σ²_i / n + σ² / (n S),

and Student's t with Satterthwaite's (1946) degrees of freedom: two or three seeds are few where training varies, and no
matter where it does not. (A bootstrap of both, seeds and items, counts σ² up to three times: Owen 2007.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from scipy.stats import t as student

from mechsteer.errors import DataError, ShapeError
from mechsteer.evaluation.scoring import Scored
from mechsteer.results import Interval, Result, cluster_weights

LEAST = 5  # adapter seeds of a primary test


@dataclass(frozen=True, kw_only=True)
class PooledSeeds(Result):
    """treated − base over several adapter seeds."""

    seeds: tuple[int, ...]
    differences: tuple[Interval, ...]
    """per seed, its interval resampling items alone"""
    mean: Interval
    """over seeds; its interval is of new seeds and new items, for one seed of new items alone"""
    between_seeds: float
    """standard deviation of the per-seed differences; nan for one seed"""
    n_items: int
    p_value: float = float("nan")
    """two-sided, of the mean being 0: the t-test behind its interval; nan for one seed, and where nothing varies"""

    @property
    def is_enough(self) -> bool:
        """At least `LEAST` trainings: fewer do not show how much a result depends on the training."""
        return len(self.seeds) >= LEAST

    @property
    def n_above(self) -> int:
        """Seeds whose interval lies above 0."""
        return sum(difference.low > 0 for difference in self.differences)

    @property
    def n_below(self) -> int:
        """Seeds whose interval lies below 0."""
        return sum(difference.high < 0 for difference in self.differences)

    @property
    def lowest(self) -> float:
        """The smallest difference of a seed."""
        return min(difference.value for difference in self.differences)

    @property
    def highest(self) -> float:
        """The largest one."""
        return max(difference.value for difference in self.differences)


def pool_seeds(
    base: Scored | Sequence[Scored],
    treated: Sequence[Scored],
    seeds: Sequence[int] | None = None,
    *,
    n_boot: int = 10_000,
    seed: int = 0,
) -> PooledSeeds:
    """Pool treated arms, one per adapter seed, each against `base` (or a base arm of its own) on the same items.

    `seeds` names them (default 0, 1, ...). Raises DataError for none, ShapeError where they are not of the same items.
    """
    bases = [base] * len(treated) if isinstance(base, Scored) else list(base)
    names = tuple(range(len(treated))) if seeds is None else tuple(seeds)
    if not treated:
        raise DataError("there are no treated arms to pool", "pass one per seed")
    if not len(bases) == len(treated) == len(names) or len({arm.groups for arm in (*bases, *treated)}) != 1:
        raise ShapeError(
            f"{len(treated)} treated arms, {len(bases)} base arms and {len(names)} seeds are not of the same items",
            "score every seed on the same items in the same order",
        )
    clusters = np.unique(np.array(treated[0].groups), return_inverse=True)[1]
    change = np.stack(
        [after.scores.astype(float) - before.scores.astype(float) for before, after in zip(bases, treated, strict=True)]
    )
    size = np.bincount(clusters)
    net = np.stack([np.bincount(clusters, row) for row in change])  # [n_seeds n_items]
    rng = np.random.default_rng(seed)
    by_item = cluster_weights(len(size), n_boot, rng)
    draws = (by_item @ net.T) / (by_item @ size)[:, None]  # [n_boot n_seeds]
    values = change.mean(1)
    differences = tuple(Interval.from_draws(float(v), draws[:, i]) for i, v in enumerate(values))
    mean, p_value = differences[0], float("nan")
    if len(values) > 1:
        mean, p_value = _mean(values, (net - values[:, None] * size) / size.mean())
    return PooledSeeds(
        seeds=names,
        differences=differences,
        mean=mean,
        between_seeds=float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
        n_items=len(size),
        p_value=p_value,
    )


def _mean(values: ndarray, left: ndarray) -> tuple[Interval, float]:
    """(mean of the seeds' `values` [n_seeds], p-value of 0); `left` [n_seeds n_items]: how far each item is from its
    seed's value."""
    n_seeds, n_items = left.shape
    free_seeds, free_items = n_seeds - 1, max(n_items - 1, 1)
    of_items = left.mean(0)
    alone = float(np.square(left - of_items).sum()) / (free_seeds * free_items * n_items * n_seeds)
    # a part that happens to lie below what it holds of `alone` has no variance of its own
    by_seed = max(float(values.var(ddof=1)) / n_seeds, alone)
    by_item = max(float(np.square(of_items).sum()) / (free_items * n_items), alone)
    variance = by_seed + by_item - alone
    unsure = by_seed**2 / free_seeds + by_item**2 / free_items + alone**2 / (free_seeds * free_items)
    value = float(values.mean())
    if not unsure > 0:  # no item and no seed differs from another
        return Interval(value=value, low=value, high=value), 1.0 if value == 0 else float("nan")
    free, error = variance**2 / unsure, float(np.sqrt(variance))
    half = float(student.isf(0.025, free) * error)
    return Interval(value=value, low=value - half, high=value + half), float(2 * student.sf(abs(value) / error, free))
