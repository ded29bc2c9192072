"""Pooling over adapter seeds, against simulation."""

import numpy as np
import pytest
from scipy import stats

from mechsteer.errors import DataError, ShapeError
from mechsteer.evaluation import Scored, compare_scores, pool_seeds


def simulated(rng, n_seeds=8, n_items=60, effect=0.3, between=0.2, by_item=0.5, noise=0.5):
    base = rng.normal(size=n_items)
    shared = rng.normal(scale=by_item, size=n_items)
    of_seed = rng.normal(scale=between, size=n_seeds)
    change = effect + of_seed[:, None] + shared + rng.normal(scale=noise, size=(n_seeds, n_items))
    return scored(base), [scored(base + row) for row in change]


def scored(scores, groups=None):
    names = range(len(scores)) if groups is None else groups
    return Scored(scores=np.asarray(scores), groups=tuple(map(str, names)))


def test_the_interval_covers_the_effect_and_that_of_items_alone_does_not():
    rng, pooled, alone = np.random.default_rng(0), 0, 0
    for k in range(200):
        base, treated = simulated(rng)
        found = pool_seeds(base, treated, n_boot=400, seed=k)
        pooled += found.mean.low <= 0.3 <= found.mean.high
        alone += found.differences[0].low <= 0.3 <= found.differences[0].high
    assert 0.90 <= pooled / 200 <= 0.985
    assert alone / 200 < 0.75


@pytest.mark.parametrize("between", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("n_seeds", [3, 8])
def test_the_interval_is_as_wide_as_means_of_other_seeds_and_items_spread(n_seeds, between):
    """Right and wrong answers vary most by seed and item at once, which a bootstrap of both counts three times."""
    values, widths, inside = [], [], 0
    for k in range(300):
        rng, noise = np.random.default_rng([1, k]), 1.5 if n_seeds == 8 else 0.5
        base, treated = simulated(rng, n_seeds, effect=0.1, between=between, noise=noise)
        found = pool_seeds(base, treated, n_boot=2).mean
        values.append(found.value)
        widths.append(found.high - found.low)
        inside += found.low <= 0.1 <= found.high
    assert 0.915 <= inside / 300 <= 0.985
    if n_seeds == 8:  # with three, Student's t is wider
        assert 0.9 <= np.mean(widths) / (2 * 1.96 * np.std(values)) <= 1.2


def test_the_mean_over_two_seeds_is_that_of_a_table_of_two_ways():
    """By hand: 2 seeds and 3 items, means .2 and .6, of items 0, .5, .7."""
    base, treated = scored(np.zeros(3)), [scored(np.array([0.0, 0.1, 0.5])), scored(np.array([0.0, 0.9, 0.9]))]
    found = pool_seeds(base, treated).mean
    seeds, items, alone = 0.08 / 2, (0.4**2 + 0.1**2 + 0.3**2) / (2 * 3), (2 * (0.2**2 + 0.2**2 + 0.0**2)) / (2 * 6)
    variance = seeds + items - alone
    free = variance**2 / (seeds**2 / 1 + items**2 / 2 + alone**2 / 2)
    assert found.value == pytest.approx(0.4)
    assert found.high - found.value == pytest.approx(stats.t.isf(0.025, free) * variance**0.5)


def test_the_pooled_test_and_the_interval_say_the_same():
    below, n = 0, 60
    for k in range(n):
        base, treated = simulated(np.random.default_rng([9, k]), n_seeds=5, effect=0.25)
        found = pool_seeds(base, treated, n_boot=2)
        assert (found.p_value < 0.05) == (not found.mean.low <= 0 <= found.mean.high)
        below += found.p_value < 0.05
        assert found.is_enough
    assert 0.1 * n < below < 0.9 * n
    alone = pool_seeds(base, treated[:1], n_boot=2)
    assert np.isnan(alone.p_value)
    assert not pool_seeds(base, treated[:4], n_boot=2).is_enough
    still = pool_seeds(scored(np.zeros(4)), [scored(np.zeros(4))] * 2, n_boot=2)
    assert still.p_value == 1


def test_each_seed_and_the_spread_between_them():
    base, treated = simulated(np.random.default_rng(1), n_seeds=3)
    found = pool_seeds(base, treated, [11, 12, 13], seed=5)
    values = [float((t.scores - base.scores).mean()) for t in treated]
    assert [d.value for d in found.differences] == pytest.approx(values)
    assert found.mean.value == pytest.approx(np.mean(values))
    assert found.between_seeds == pytest.approx(np.std(values, ddof=1))
    assert (found.seeds, found.n_items) == ((11, 12, 13), 60)
    one = compare_scores(base.scores, treated[0].scores, seed=5).difference
    assert (found.differences[0].low, found.differences[0].high) == pytest.approx((one.low, one.high), abs=0.02)


def test_many_equal_seeds_add_no_evidence_on_items():
    base, treated = simulated(np.random.default_rng(2), n_seeds=1)
    one, ten = pool_seeds(base, treated, seed=1), pool_seeds(base, treated * 10, seed=1)
    assert (ten.mean.low, ten.mean.high) == pytest.approx((one.mean.low, one.mean.high), abs=0.01)
    assert ten.between_seeds == pytest.approx(0, abs=1e-12)
    assert np.isnan(one.between_seeds)


def test_right_and_wrong_and_a_base_of_each_seeds_own():
    right, wrong = scored(np.ones(4, dtype=bool)), scored(np.zeros(4, dtype=bool))
    assert pool_seeds([wrong, right], [right, right], n_boot=50).mean.value == 0.5


def test_repeated_items_stay_together():
    groups = [0, 0, 1, 1, 2, 2]
    found = pool_seeds(scored(np.zeros(6), groups), [scored(np.arange(6.0), groups)], n_boot=4000)
    assert found.n_items == 3
    assert found.mean.low == pytest.approx(0.5)  # the first item's mean, three times
    assert found.mean.high == pytest.approx(4.5)


def test_refusals():
    one = scored(np.ones(3))
    with pytest.raises(DataError, match="no treated arms"):
        pool_seeds(one, [])
    for base, treated, seeds in (
        (one, [scored(np.ones(4))], None),
        (one, [one], [1, 2]),
        ([one, one], [one], None),
        (one, [scored(np.ones(3), "abd")], None),
    ):
        with pytest.raises(ShapeError, match="not of the same items"):
            pool_seeds(base, treated, seeds)
