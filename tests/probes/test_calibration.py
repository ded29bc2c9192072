"""Calibration curves: probabilities drawn from are on the diagonal, overconfident ones are not, and the bins are all rows."""

import numpy as np
import pytest

from mechsteer.errors import DataError, ShapeError
from mechsteer.probes import calibration_curve, evaluate_probe
from mechsteer.results import from_json, to_json


def drawn(seed, n=4000):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0, 1, n)
    return p, (rng.uniform(size=n) < p).astype(int), np.arange(n) // 4


def test_probabilities_that_are_drawn_from_lie_on_the_diagonal():
    p, y, groups = drawn(0)
    curve = calibration_curve(p, y, groups, n_boot=300)
    assert sum(each.n for each in curve.bins) == len(p) == curve.n
    covered = [each.frequency.low <= each.confidence <= each.frequency.high for each in curve.bins]
    assert sum(covered) >= 8
    assert curve.ece < 0.03


def test_overconfidence_shows_in_both_ends():
    p, y, groups = drawn(1)
    sure = np.clip(0.5 + 2 * (p - 0.5), 0, 1)
    curve = calibration_curve(sure, y, groups, n_boot=300)
    low, high = curve.bins[0], curve.bins[-1]
    assert low.frequency.low > low.confidence + 0.05
    assert high.frequency.high < high.confidence - 0.05
    gaps = [abs(each.confidence - each.frequency.value) * each.n for each in curve.bins]
    assert curve.ece == pytest.approx(sum(gaps) / len(p))


def test_intervals_are_over_groups():
    p, y, _ = drawn(2, n=400)
    copies = [np.repeat(each, 5) for each in (p, y, np.arange(400))]
    own, repeated = calibration_curve(p, y, np.arange(400)), calibration_curve(*copies)
    for one, other in zip(own.bins, repeated.bins, strict=True):
        assert other.frequency.high - other.frequency.low == pytest.approx(
            one.frequency.high - one.frequency.low, rel=0.35
        )


def test_an_evaluation_has_the_curve_of_its_tested_rows():
    rng = np.random.default_rng(3)
    y, groups = np.arange(240) % 2, np.arange(240) // 4
    X = rng.standard_normal((240, 3)) + y[:, None]
    result = evaluate_probe(X, y, groups, n_boot=50, n_permutations=9)
    tested = result.folds >= 0
    assert result.calibration.n == tested.sum()
    assert result.calibration.ece == pytest.approx(result.probe.ece)
    assert from_json(type(result), to_json(result)) == result


def test_refusals():
    with pytest.raises(DataError, match="between 0 and 1"):
        calibration_curve(np.array([0.5, np.nan]), np.array([0, 1]), np.arange(2))
    with pytest.raises(ShapeError, match="do not fit together"):
        calibration_curve(np.array([0.5]), np.array([0, 1]), np.arange(2))
