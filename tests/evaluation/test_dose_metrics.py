"""Figures of dose-response curves against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mechsteer.evaluation import dose_metrics as metrics

COEFFS = np.array([-5.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 5.0])
LABELS = np.array([1, 1, 1, -1, -1, -1])
GROUPS = np.arange(6)
HOW = {"n_boot": 500, "seed": 0}


def test_a_constant_answer_scores_nothing_also_where_rows_are_undefined() -> None:
    scores = 2.5 * LABELS.astype(float)
    scores[:2] = np.nan
    assert metrics.balanced_mean(scores, LABELS) == 0
    assert metrics.mean_interval(scores, LABELS, GROUPS, **HOW).value == 0


def test_intervals_resample_situations_not_rows() -> None:
    values = np.random.default_rng(2).normal(size=6)
    shuffled = np.array([3, 0, 5, 1, 4, 2])
    alone = metrics.mean_interval(values, LABELS, GROUPS, **HOW)
    copied = metrics.mean_interval(
        np.concatenate([values, values[shuffled]]),
        np.concatenate([LABELS, LABELS[shuffled]]),
        np.concatenate([GROUPS, GROUPS[shuffled]]),
        **HOW,
    )
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), rel=1e-10)


def test_a_mean_of_one_label_is_its_own_and_of_none_undefined() -> None:
    assert metrics.balanced_mean(np.array([1.0, 3.0]), np.array([1, 1])) == 2
    assert math.isnan(metrics.balanced_mean(np.array([np.nan, 3.0]), np.array([1, -1])))


def test_slopes_are_those_of_every_row_by_least_squares() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(9, 6)) + 0.7 * COEFFS[:, None] + rng.normal(size=6)
    near = np.abs(COEFFS) <= 1
    each = [stats.linregress(COEFFS[near], scores[near, i]).slope for i in range(6)]
    tested = stats.ttest_1samp(each, 0)
    found = metrics.slope(COEFFS, scores, GROUPS)
    np.testing.assert_allclose(
        [found.value, found.t, found.p_value], [np.mean(each), tested.statistic, tested.pvalue], rtol=1e-10
    )
    twice = metrics.slope(COEFFS, np.repeat(scores, 2, axis=1), np.repeat(GROUPS, 2))
    assert (twice.n, pytest.approx(twice.p_value, rel=1e-10)) == (6, found.p_value)  # copies are no evidence


def test_slopes_without_spread_or_rows_are_said_so() -> None:
    assert metrics.slope(COEFFS, np.tile(2 * COEFFS[:, None], 6), GROUPS).t == math.inf
    assert math.isnan(metrics.slope(COEFFS, np.zeros((9, 6)), GROUPS).t)
    assert metrics.slope(COEFFS, np.full((9, 6), np.nan), GROUPS).n == 0


def test_rank_correlation_is_spearmans_over_three_coefficients() -> None:
    scores = np.random.default_rng(1).normal(size=(9, 6)) + COEFFS[:, None]
    three = np.isin(COEFFS, (-1, 0, 1))
    expected = stats.spearmanr(np.repeat([-1, 0, 1], 6), scores[three].ravel()).statistic
    assert metrics.rank_correlation(COEFFS, scores) == pytest.approx(expected, rel=1e-10)
    scores[~three] = 1e6
    assert metrics.rank_correlation(COEFFS, scores) == pytest.approx(expected, rel=1e-10)
    assert math.isnan(metrics.rank_correlation(COEFFS, np.ones((9, 6))))


def test_coherence_ends_at_the_first_coefficient_that_fails() -> None:
    valid = np.array([1.0, 0.5, 0.9, 1.0, 1.0, 1.0, 0.8, 0.79, 1.0])
    assert metrics.coherent_range(COEFFS, valid) == (-1.0, 1.0)
    assert metrics.coherent_range(COEFFS, np.ones(9)) == (-5.0, 5.0)
    assert metrics.coherent_range(COEFFS, np.zeros(9)) is None


def test_a_curve_falls_where_more_than_chance_says_so() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=40)
    labels, groups = np.tile([1, -1], 20), np.arange(40)
    up = COEFFS[:, None] + rows
    assert metrics.falls(COEFFS, up, labels, groups, (-5, 5), **HOW) == ()
    up[-1] -= 6  # at 5 below what it is at 2
    assert metrics.falls(COEFFS, up, labels, groups, (-5, 5), **HOW) == ((2.0, 5.0),)
    assert metrics.falls(COEFFS, up, labels, groups, (-2, 2), **HOW) == ()
    flat = rng.normal(size=(9, 40))
    assert len(metrics.falls(COEFFS, flat, labels, groups, (-5, 5), **HOW)) < 3


def test_smoothness_is_less_for_a_jump_and_a_turn() -> None:
    assert metrics.smoothness(COEFFS, COEFFS) == pytest.approx(1)
    assert metrics.smoothness(COEFFS, np.sign(COEFFS)) < 0.9
    assert metrics.smoothness(COEFFS, COEFFS**2) < 1e-6
    assert math.isnan(metrics.smoothness(COEFFS, np.zeros(9)))


def test_effect_per_parameters_and_gain() -> None:
    assert metrics.per_log_parameters(3.0, 100) == pytest.approx(3 / math.log(100))
    assert math.isnan(metrics.per_log_parameters(3.0, None))
    assert math.isnan(metrics.per_log_parameters(3.0, 1))
    assert metrics.normalised_gain(2.0, 0.5, -1.0) == 100
    assert math.isnan(metrics.normalised_gain(2.0, math.nan, 0.0))


def test_a_loss_is_reached_between_two_coefficients() -> None:
    losses = np.array([9.0, 9.0, 9.0, 9.0, 0.0, 0.1, 0.3, 0.2, 5.0])
    assert metrics.first_reaching(COEFFS, losses, 0.2) == pytest.approx(0.75)
    assert metrics.first_reaching(COEFFS, losses, 2.6) == pytest.approx(3.5)
    assert math.isnan(metrics.first_reaching(COEFFS, losses, 6.0))
