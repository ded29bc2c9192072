"""Paired statistics against statsmodels, scipy and simulation."""

import numpy as np
import pytest
import scipy.stats
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from mechsteer.errors import DataError, ShapeError
from mechsteer.evaluation import (
    PairedComparison,
    compare_paired,
    compare_scores,
    detectable_difference,
    holm,
    mcnemar_exact,
    mcnemar_power,
)
from mechsteer.evaluation.paired import resamples
from mechsteer.results import cluster_weights, from_json, to_json


def arms(both, lost, gained, neither):
    """Answers of two arms with a given table."""
    base = np.repeat([1, 1, 0, 0], [both, lost, gained, neither])
    treated = np.repeat([1, 0, 1, 0], [both, lost, gained, neither])
    return base, treated


@pytest.mark.parametrize("table", [(50, 3, 12, 35), (10, 7, 7, 2), (5, 0, 1, 0), (5, 0, 0, 5), (0, 20, 0, 0)])
def test_mcnemar_equals_statsmodels(table):
    both, lost, gained, neither = table
    base, treated = arms(*table)
    result = compare_paired(base, treated, n_boot=200)
    oracle = mcnemar([[both, lost], [gained, neither]], exact=True)
    assert result.p_value == pytest.approx(oracle.pvalue)
    assert (result.gained, result.lost, result.n, result.test) == (gained, lost, sum(table), "mcnemar_exact")
    assert result.difference.value == pytest.approx(result.treated_rate - result.base_rate)
    assert result.discordance == (gained + lost) / sum(table)


def test_mcnemar_is_the_sign_test():
    for gained in range(8):
        assert mcnemar_exact(gained, 5) == pytest.approx(binomtest(gained, gained + 5).pvalue)


def test_interval_covers_as_the_normal_one_does():
    base, treated = arms(200, 40, 90, 170)
    result = compare_paired(base, treated, n_boot=4000)
    change = treated - base
    half = 1.96 * change.std() / np.sqrt(len(change))
    assert (result.difference.low, result.difference.high) == pytest.approx(
        (change.mean() - half, change.mean() + half), abs=0.006
    )


def test_repeated_items_are_not_independent_evidence():
    base, treated = arms(20, 5, 14, 21)
    once = compare_paired(base, treated, n_boot=4000)
    items = np.repeat(np.arange(60), 10)
    copied = compare_paired(np.repeat(base, 10), np.repeat(treated, 10), items, n_boot=4000)
    assert copied.test == "item_sign_flip"
    assert copied.n_items == once.n_items == 60
    assert copied.p_value == pytest.approx(once.p_value, abs=0.015)
    assert copied.difference.high - copied.difference.low == pytest.approx(
        once.difference.high - once.difference.low, rel=0.05
    )


def test_same_seed_same_interval():
    base, treated = arms(20, 5, 14, 21)
    assert compare_paired(base, treated, n_boot=50, seed=3) == compare_paired(base, treated, n_boot=50, seed=3)
    assert compare_paired(base, treated, n_boot=50, seed=3) != compare_paired(base, treated, n_boot=50, seed=4)


def test_holm_equals_statsmodels():
    p_values = dict(enumerate(np.random.default_rng(0).uniform(0, 0.1, 12)))
    adjusted = holm(p_values)
    np.testing.assert_allclose(list(adjusted.values()), multipletests(list(p_values.values()), method="holm")[1])
    with_gap = holm({"a": 0.02, "gap": np.nan, "b": 0.01})
    assert list(with_gap) == ["a", "gap", "b"]
    assert with_gap["b"] == 0.02
    assert np.isnan(with_gap["gap"])
    assert holm({}) == {}


def test_power_equals_simulation():
    rng = np.random.default_rng(1)
    n, discordance, difference = 120, 0.25, 0.1
    gain, loss = (discordance + difference) / 2, (discordance - difference) / 2
    tables = rng.multinomial(n, [gain, loss, 1 - discordance], size=4000)
    simulated = np.mean([mcnemar_exact(gained, lost) <= 0.05 for gained, lost, _ in tables])
    assert mcnemar_power(n, discordance, difference) == pytest.approx(simulated, abs=0.025)


def test_power_under_no_effect_is_at_most_alpha():
    for n, discordance in ((5, 0.5), (40, 0.3), (500, 0.1)):
        assert mcnemar_power(n, discordance, 0.0) <= 0.05
        assert mcnemar_power(n, discordance, discordance) >= mcnemar_power(n, discordance, discordance / 2)
        assert mcnemar_power(n, discordance, -0.05) == pytest.approx(mcnemar_power(n, discordance, 0.05))


def test_detectable_difference():
    size = detectable_difference(500, 0.2)
    assert mcnemar_power(500, 0.2, size) == pytest.approx(0.8, abs=1e-3)
    # The usual approximation: (1.96 + 0.84) sqrt(discordance / n), the exact test needs a little more.
    assert 2.8 * np.sqrt(0.2 / 500) < size < 1.1 * 2.8 * np.sqrt(0.2 / 500)
    assert detectable_difference(2000, 0.2) < size < detectable_difference(500, 0.2, power=0.9)
    assert np.isnan(detectable_difference(5, 0.2))
    assert np.isnan(detectable_difference(500, 0.0))


def test_json_and_back():
    result = compare_paired(*arms(3, 0, 0, 3), n_boot=10)
    assert np.isnan(result.detectable)
    assert from_json(PairedComparison, to_json(result)) == result


def test_refusals():
    with pytest.raises(ShapeError, match="are not pairs"):
        compare_paired(np.ones(3), np.ones(4))
    with pytest.raises(ShapeError, match="are not pairs"):
        compare_paired(np.ones(0), np.ones(0))
    with pytest.raises(DataError, match="treated holds values other than 0 and 1"):
        compare_paired([0, 1], [0, 0.5])
    with pytest.raises(DataError, match="is impossible"):
        mcnemar_power(100, 0.1, 0.2)


def scores(n=60, shift=0.3, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=n)
    return base, base + rng.normal(shift, 1, n)


def test_scores_agree_with_scipys_bootstrap_and_permutation_test():
    base, treated = scores()
    ours = compare_scores(base, treated, n_boot=20_000, seed=1)
    change = treated - base
    rng = np.random.default_rng(2)
    theirs = scipy.stats.bootstrap((change,), np.mean, n_resamples=20_000, method="percentile", rng=rng)
    assert ours.difference.value == pytest.approx(change.mean())
    assert ours.difference.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert ours.difference.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)
    flips = scipy.stats.permutation_test(
        (treated, base), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=20_000, rng=rng
    )
    assert ours.p_value == pytest.approx(flips.pvalue, abs=0.01)


def test_repeated_items_are_no_new_evidence():
    base, treated = scores()
    items = np.arange(len(base))
    once = compare_scores(base, treated, items, seed=3)
    thrice = compare_scores(np.tile(base, 3), np.tile(treated, 3), np.tile(items, 3), seed=3)
    assert (thrice.n, thrice.n_items) == (180, 60)
    assert thrice.p_value == pytest.approx(once.p_value)
    assert (thrice.difference.low, thrice.difference.high) == pytest.approx((once.difference.low, once.difference.high))


def test_the_detectable_difference_of_scores_is_detected_four_times_in_five():
    base, treated = scores(n=80, shift=0.0)
    size = compare_scores(base, treated).detectable
    rng = np.random.default_rng(4)
    spread = (treated - base).std(ddof=1)
    draws = rng.normal(size, spread, (4000, 80))
    assert (scipy.stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)


def test_equal_scores_and_scores_that_are_none():
    base, _ = scores()
    same = compare_scores(base, base)
    assert (same.difference.value, same.difference.low, same.p_value) == (0.0, 0.0, 1.0)
    with pytest.raises(DataError, match="NaN"):
        compare_scores(base, np.where(np.arange(60) == 3, np.nan, base))
    with pytest.raises(ShapeError):
        compare_scores(base, base[:5])


def test_kept_resamples_are_those_of_a_fresh_generator():
    rng = np.random.default_rng(3)
    weights = cluster_weights(20, 50, rng)
    for _ in range(2):
        kept, after = resamples(20, 50, 3)
        np.testing.assert_array_equal(kept, weights)
        np.testing.assert_array_equal(after.integers(0, 9, 5), np.random.Generator(_copy(rng)).integers(0, 9, 5))


def _copy(rng):
    bits = type(rng.bit_generator)()
    bits.state = rng.bit_generator.state
    return bits
