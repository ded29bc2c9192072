"""Two steerings on the same questions at an equal loss of neutral text: differences, pooled over seeds and preferences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from common import Finding, pooled
from numpy import ndarray
from singular_makes import Swept, Workshop

from mechsteer.evaluation.dose_metrics import mean_interval
from mechsteer.evaluation.paired import resamples
from mechsteer.results import Interval

Rows = ndarray
"""[n_rows] effects in nats of log-odds"""
OfSeed = Callable[[Workshop, int], tuple[Swept, Rows]]


def told(swept: Swept, rows: Rows, n_boot: int) -> Interval:
    """The mean over rows, both labels alike, with its interval over situations."""
    groups = np.unique(np.array(swept.dose.groups), return_inverse=True)[1]
    return mean_interval(rows, np.array(swept.dose.labels), groups, n_boot=n_boot, seed=0)


def error(value: Interval) -> float:
    """The standard error that its 95 % interval stands for."""
    return (value.high - value.low) / (2 * 1.96)


def differences(shops: Sequence[Workshop], left: OfSeed, right: OfSeed | None, null: str) -> Finding:
    """Left − right (None: 0), paired by question; the mean over preferences of what is pooled over seeds."""
    parts = []
    for shop in shops:
        values = []
        for seed in shop.seeds:
            swept, rows = left(shop, seed)
            gap = told(swept, rows if right is None else rows - right(shop, seed)[1], shop.settings["n_boot"])
            values.append((gap.value, error(gap)))
        parts.append((shop.of.name, pooled(values, len(values), null)))
    return over_preferences(parts, null)


def over_preferences(parts: Sequence[tuple[str, Finding]], null: str) -> Finding:
    """The mean of findings on different questions, each of them in words."""
    value = float(np.mean([each.value for _, each in parts]))
    half = math.sqrt(sum(((each.high - each.low) / 2) ** 2 for _, each in parts)) / len(parts)
    words = "; ".join(f"{name} {each.value:.2f} [{each.low:.2f}, {each.high:.2f}]" for name, each in parts)
    return Finding(
        value=value,
        low=value - half,
        high=value + half,
        n_seeds=parts[0][1].n_seeds,
        null=null,
        words=words if len(parts) > 1 else "",
    )


def asymmetry(swept: Swept, coeff: float, n_boot: int) -> Interval:
    """Σ |change(c) + change(−c)| / Σ (|change(c)| + |change(−c)|) over rows; 0 is reversible, 1 is one-sided.

    c is one of the sweep. Intervals resample situations.
    """
    up, down = swept.changes[:, list(swept.coeffs).index(coeff)]
    known = np.isfinite(up + down)
    apart, both = np.abs(up + down)[known], (np.abs(up) + np.abs(down))[known]
    groups = np.unique(np.array(swept.dose.groups)[known], return_inverse=True)[1]
    weights = resamples(int(groups.max()) + 1, n_boot, 0)[0][:, groups]
    return Interval.from_draws(float(apart.sum() / both.sum()), (weights @ apart) / (weights @ both))
