"""Pooling over adapter seeds, against simulation."""

import numpy as np
import pytest

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
    assert 0.87 <= pooled / 200 <= 0.99
    assert alone / 200 < 0.75


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
