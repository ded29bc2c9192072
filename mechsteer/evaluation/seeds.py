"""One result over several adapter seeds: the same training with other random numbers, each scored on the same items.

The estimate is the mean over seeds of treated − base. Its interval resamples both what varies by training (seeds) and
what varies by problem (items), independently of each other: every seed answers the same items. Resampling S seeds
sees (S − 1)/S of their variance, so with two or three seeds the interval is somewhat short; `between_seeds` is
unbiased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mechsteer.errors import DataError, ShapeError
from mechsteer.evaluation.scoring import Scored
from mechsteer.results import Interval, Result, cluster_weights


@dataclass(frozen=True, kw_only=True)
class PooledSeeds(Result):
    """treated − base over several adapter seeds."""

    seeds: tuple[int, ...]
    differences: tuple[Interval, ...]
    """per seed, its interval resampling items alone"""
    mean: Interval
    """over seeds; its interval resamples seeds and items"""
    between_seeds: float
    """standard deviation of the per-seed differences; nan for one seed"""
    n_items: int

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
    by_seed = cluster_weights(len(treated), n_boot, rng) / len(treated)
    draws = (by_item @ net.T) / (by_item @ size)[:, None]  # [n_boot n_seeds]
    values = change.mean(1)
    return PooledSeeds(
        seeds=names,
        differences=tuple(Interval.from_draws(float(v), draws[:, i]) for i, v in enumerate(values)),
        mean=Interval.from_draws(float(values.mean()), (draws * by_seed).sum(1)),
        between_seeds=float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
        n_items=len(size),
    )
