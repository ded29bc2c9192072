"""Calibration curves: of the rows to which a probe gives some probability, how many are positive?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from mechsteer.errors import DataError, ShapeError
from mechsteer.probes.scores import N_BINS, calibration_error
from mechsteer.results import Interval, Result, cluster_weights


@dataclass(frozen=True, kw_only=True)
class CalibrationBin(Result):
    """The rows whose probability lies in one bin of equal width."""

    low: float
    high: float
    n: int
    confidence: float
    """mean probability"""
    frequency: Interval
    """share of positive rows, 95 % over groups"""


@dataclass(frozen=True, kw_only=True)
class CalibrationCurve(Result):
    """Bins that hold rows, from low to high."""

    _rows = "bins"

    bins: tuple[CalibrationBin, ...]
    ece: float
    """expected calibration error: mean |confidence − frequency|, weighted by rows"""
    n: int


def calibration_curve(
    probabilities: Float[ndarray, " n_samples"],
    labels: Int[ndarray, " n_samples"],
    groups: ndarray,
    *,
    n_bins: int = N_BINS,
    n_boot: int = 1000,
    seed: int = 0,
) -> CalibrationCurve:
    """The curve of `probabilities` of the positive class for rows that were not trained on; labels are 0 and 1.

    Raises ShapeError, DataError (probabilities outside 0 … 1 or undefined, no row).
    """
    p, y, clusters = np.asarray(probabilities, float), np.asarray(labels), np.asarray(groups)
    if p.ndim != 1 or y.shape != p.shape or clusters.shape != p.shape:
        raise ShapeError(
            f"probabilities {list(p.shape)}, labels {list(y.shape)}, groups {list(clusters.shape)} do not fit together.",
            "one of each per row.",
        )
    if not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise DataError(
            "a calibration curve is of probabilities between 0 and 1.", "leave out rows that are not scored."
        )
    clusters = np.unique(clusters, return_inverse=True)[1]
    weights = cluster_weights(clusters.max() + 1, n_boot, np.random.default_rng(seed)).astype(float)
    place = np.minimum((p * n_bins).astype(int), n_bins - 1)
    bins = []
    for number in np.unique(place).tolist():
        rows = place == number
        size = weights @ np.bincount(clusters[rows], minlength=weights.shape[1])
        positive = weights @ np.bincount(clusters[rows], y[rows], minlength=weights.shape[1])
        draws = np.where(size > 0, positive / np.where(size > 0, size, 1), np.nan)
        bins.append(
            CalibrationBin(
                low=number / n_bins,
                high=(number + 1) / n_bins,
                n=int(rows.sum()),
                confidence=float(p[rows].mean()),
                frequency=Interval.from_draws(float(y[rows].mean()), draws),
            )
        )
    return CalibrationCurve(bins=tuple(bins), ece=calibration_error(p, y, n_bins), n=len(p))
