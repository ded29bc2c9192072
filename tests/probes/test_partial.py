"""Effects beside covariates: other libraries, curves and jumps of length, problems."""

import numpy as np
import patsy
import pytest
import statsmodels.api as sm
from statsmodels.discrete.conditional_models import ConditionalLogit

from mechsteer.errors import DataError
from mechsteer.probes import partial_effect

CURVES = {"log": np.log, "step": lambda x: 2.0 * (x > 33), "quadratic": lambda x: ((x - 33) / 12) ** 2}


def test_equals_statsmodels():
    """Splines against patsy's natural ones, the interval against the sandwich over groups."""
    rng = np.random.default_rng(8)
    length, n = rng.standard_normal(110), 110  # too few rows for bins
    feature = 0.7 * length + rng.standard_normal(n)
    y = (0.8 * feature - length**2 + rng.logistic(size=n) > 0).astype(int)
    groups = np.arange(n) // 2
    result = partial_effect(feature, y, {"length": length, "limit": np.zeros(n)}, groups)
    knots = np.quantile(length, np.linspace(0, 1, 6))
    curve = np.asarray(patsy.cr(length, knots=knots[1:-1], lower_bound=knots[0], upper_bound=knots[-1]))
    standard = (feature - feature.mean()) / feature.std()
    model = sm.Logit(y, np.column_stack([standard, curve]))
    oracle = model.fit(disp=0, cov_type="cluster", cov_kwds={"groups": groups})
    assert result.effect.value == pytest.approx(oracle.params[0], rel=0.05)  # the weak prior on the curve
    half = (result.effect.high - result.effect.low) / 2
    assert half == pytest.approx(2.01 * oracle.bse[0], rel=0.12)
    alone = sm.Logit(y, sm.add_constant(standard)).fit(disp=0)
    assert result.alone.value == pytest.approx(alone.params[1], rel=1e-6)
    assert result.dropped == ("limit",)
    assert result.covariates == {"length": 5}


def test_within_groups_equals_conditional_logit():
    """Exactly for groups of two, where pairs are all there is."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(150), 2)
    feature, ease = rng.standard_normal(300), 2 * rng.standard_normal(150)[groups]
    y = (feature + ease + rng.logistic(size=300) > 0).astype(int)
    result = partial_effect(feature, y, {}, groups)
    standard = ((feature - feature.mean()) / feature.std())[:, None]
    mixed = np.isin(groups, np.flatnonzero(np.bincount(groups, y) == 1))
    oracle = ConditionalLogit(y[mixed], standard[mixed], groups=groups[mixed]).fit(disp=0)
    assert result.within.value == pytest.approx(float(oracle.params[0]), rel=1e-4)
    assert result.n_mixed_groups == mixed.sum() // 2
    assert result.n_groups == 150


def lengths(rng, n_groups=150):
    groups = np.repeat(np.arange(n_groups), 4)
    usual = rng.standard_normal(n_groups)[groups]
    return np.round(np.exp(3.5 + 0.3 * (0.6 * usual + 0.8 * rng.standard_normal(len(groups))))), groups


@pytest.mark.parametrize("shape", CURVES)
def test_a_proxy_of_length_says_nothing_beyond_it(shape):
    """Whatever the shape of the relation; a straight line would find an effect in most of these samples."""
    found = {"effect": 0, "within": 0}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        length, groups = lengths(rng)
        bent = CURVES[shape](length)
        bent = (bent - bent.mean()) / bent.std()
        feature = bent + 0.5 * rng.standard_normal(len(length))
        y = (1.5 * bent + rng.logistic(size=len(length)) > 0).astype(int)
        result = partial_effect(feature, y, {"length": length}, groups)
        assert result.alone.low > 0.3
        for name in found:
            interval = getattr(result, name)
            found[name] += interval.low > 0 or interval.high < 0
    assert max(found.values()) <= 5  # 1.5 expected


@pytest.mark.parametrize("noise", [0.3, 0.5])
def test_a_jump_of_length_is_found_where_it_is(noise):
    """100 problems leave no rows for bins; a spline alone takes half a standard error of length's jump for an effect."""
    found = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        length, groups = lengths(rng, 100)
        jump = (length > 37).astype(float)
        jump = (jump - jump.mean()) / jump.std()
        feature = jump + noise * rng.standard_normal(len(length))
        y = (1.5 * jump + rng.logistic(size=len(length)) > 0).astype(int)
        result = partial_effect(feature, y, {"length": length}, groups)
        assert result.covariates["length"] > 5
        found.append(
            [interval.value / (interval.high - interval.low) * 4 for interval in (result.effect, result.within)]
        )
    z = np.array(found)
    assert np.abs(z.mean(0)).max() < 0.3
    assert (np.abs(z) > 2).mean(0).max() <= 0.11  # 99.5 % quantile of Binomial(100, 0.05)


def test_a_line_has_no_jumps():
    rng = np.random.default_rng(0)
    length, groups = lengths(rng)
    y = (0.1 * (length - 33) + rng.logistic(size=len(length)) > 0).astype(int)
    feature = np.log(length) + 0.3 * rng.standard_normal(len(length))
    assert partial_effect(feature, y, {"length": length}, groups).covariates == {"length": 5}


def test_a_planted_effect_is_found_beside_length_and_within_problems():
    covered = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        length, groups = lengths(rng)
        ease = rng.standard_normal(150)[groups]
        feature = rng.standard_normal(len(length)) + 0.02 * length
        y = (0.8 * feature / feature.std() - 0.1 * (length - 33) + ease + rng.logistic(size=len(length)) > 0).astype(
            int
        )
        result = partial_effect(feature, y, {"length": length}, groups)
        assert result.within.low > 0.2
        covered += result.within.low < 0.8 < result.within.high
    assert covered >= 24


def test_difficulty_is_nothing_within_problems():
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(200), 4)
    ease = rng.standard_normal(200)[groups]
    y = (2 * ease + rng.logistic(size=800) > 0).astype(int)
    result = partial_effect(ease + 0.5 * rng.standard_normal(800), y, {}, groups)
    assert result.effect.low > 0.5
    assert result.within.low < 0 < result.within.high
    constant = partial_effect(ease, y, {}, groups)
    assert np.isnan(constant.within.value)  # the same for all attempts


def test_a_feature_that_nearly_is_length_is_not_held_for_it():
    """The prior on covariates must not make a proxy take over what length does."""
    rng = np.random.default_rng(5)
    length, groups = lengths(rng, 300)
    y = (4 * np.log(length / 33) + rng.logistic(size=len(length)) > 0).astype(int)
    proxy = np.log(length) + 0.01 * rng.standard_normal(len(length))
    result = partial_effect(proxy, y, {"length": length}, groups)
    for interval in (result.effect, result.within):
        assert interval.low < 0 < interval.high


def test_a_stricter_interval_is_wider():
    rng = np.random.default_rng(6)
    x, y, groups = rng.standard_normal(80), np.arange(80) % 2, np.arange(80) // 4
    one, other = (partial_effect(x, y, {}, groups, confidence=level) for level in (0.95, 0.99))
    assert other.effect.low < one.effect.low < one.effect.value == other.effect.value


def test_separated_classes_are_undefined():
    y = np.repeat([0, 1], 20)
    result = partial_effect(y + np.linspace(0, 0.1, 40), y, {}, np.arange(40))
    assert np.isnan(result.effect.value)
    assert result.effect.n_undefined == 1
    assert np.isnan(result.within.value)  # no group holds both


def test_a_style_that_is_always_wrong_is_no_obstacle():
    rng = np.random.default_rng(7)
    style = np.array(["hasty", "careful"])[rng.integers(0, 2, 400)]
    x = rng.standard_normal(400)
    y = ((x + rng.logistic(size=400) > 0) & (style == "careful")).astype(int)
    result = partial_effect(x, y, {"style": style}, np.arange(400) // 4)
    assert 0.5 < result.effect.value < 1.6


def test_refusals():
    y, feature = np.arange(20) % 2, np.arange(20.0)
    with pytest.raises(DataError, match="linearly dependent"):
        partial_effect(feature, y, {"twice": 2 * feature}, y)
    with pytest.raises(DataError, match="same for every row"):
        partial_effect(np.ones(20), y, {}, y)
    with pytest.raises(DataError, match="two classes are needed"):
        partial_effect(feature, np.ones(20), {}, y)
