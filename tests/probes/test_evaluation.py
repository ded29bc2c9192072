"""Probe evaluation: planted confounders, and AUROC and regression against other libraries."""

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.metrics import brier_score_loss, roc_auc_score

from mechsteer.errors import DataError, NonFiniteError, ShapeError
from mechsteer.probes import LinearProbe, evaluate_probe, grouped_folds, partial_effect, weighted_auroc


def attempts(seed=0, n_groups=60, per_group=6, signal=2.0, d_model=8):
    """Several attempts per problem. Feature 0 knows the attempt's correctness, feature 1 the problem's difficulty."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), per_group)
    difficulty = rng.standard_normal(n_groups)[groups]
    y = (rng.standard_normal(len(groups)) - difficulty > 0).astype(int)
    X = rng.standard_normal((len(groups), d_model))
    X[:, 0] += signal * y
    X[:, 1] += 3 * difficulty
    return X, y, groups, difficulty


def test_weighted_auroc_equals_sklearn_with_ties():
    rng = np.random.default_rng(0)
    scores, y = rng.integers(0, 6, 80) / 5, rng.integers(0, 2, 80)
    weights = rng.integers(0, 4, (5, 80))
    expected = [roc_auc_score(y, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_auroc(scores, y, weights), expected, rtol=1e-12)
    assert np.isnan(weighted_auroc(scores, y, (y == 1)[None].astype(int))).all()


def test_groups_never_straddle_folds():
    _, y, groups, _ = attempts()
    folds = grouped_folds(y, groups, n_splits=4, seed=3)
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1
    assert len(np.unique(folds)) == 4
    assert (folds == grouped_folds(y, groups, n_splits=4, seed=3)).all()
    assert (folds != grouped_folds(y, groups, n_splits=4, seed=4)).any()


def test_scores_equal_sklearn_by_hand():
    X, y, groups, _ = attempts(1)
    result = evaluate_probe(X, y, groups, n_boot=200, n_shuffles=0)
    scores = np.empty(len(y))
    for fold in range(5):
        test = result.folds == fold
        scores[test] = LinearProbe().fit(X[~test], y[~test]).predict_proba(X[test])[:, 1]
    np.testing.assert_allclose(result.scores, scores)
    assert result.probe.auroc.value == pytest.approx(roc_auc_score(y, scores))
    assert result.probe.auroc.low < result.probe.auroc.value < result.probe.auroc.high
    assert result.probe.brier.value == pytest.approx(brier_score_loss(y, scores))
    assert result.probe.accuracy.value == pytest.approx(((scores > 0.5) == y).mean())
    won = total = 0
    for group in np.unique(groups):
        rows = groups == group
        for good in scores[rows & (y == 1)]:
            for bad in scores[rows & (y == 0)]:
                won, total = won + (good > bad), total + 1
    assert result.probe.within_group_auroc.value == pytest.approx(won / total)
    assert result.probe.n_within_pairs == total


def test_knowing_the_problem_is_worth_nothing_within_problems():
    X, y, groups, difficulty = attempts(2, n_groups=150, signal=0.0)
    result = evaluate_probe(X, y, groups, baselines={"difficulty": difficulty}, n_boot=300)
    assert result.probe.auroc.low > 0.6
    within = result.probe.within_group_auroc
    assert within.low < 0.5 < within.high
    assert result.baselines["difficulty"].within_group_auroc.value == 0.5  # the same for all attempts: only ties
    assert result.gains["difficulty"].low < 0.02


def test_a_real_signal_is_seen_within_problems_and_beyond_baselines():
    X, y, groups, difficulty = attempts(3)
    styles = np.where(np.random.default_rng(0).random(len(y)) < 0.5, "hasty", "careful")
    result = evaluate_probe(
        X, y, groups, baselines={"difficulty": difficulty, "style": styles, "both": X[:, 1:3]}, n_boot=300
    )
    assert result.probe.within_group_auroc.low > 0.7
    assert result.within_group_gains["style"].low > 0.2
    assert result.gains["both"].low > 0
    assert abs(result.baselines["style"].auroc.value - 0.5) < 0.1
    assert abs(result.shuffled.value - 0.5) < 0.1
    assert type(result).from_dict(result.to_dict()) == result


def test_intervals_resample_groups_not_rows():
    X, y, groups, _ = attempts(4)
    copies = 8
    result = evaluate_probe(X, y, groups, n_boot=400, n_shuffles=0)
    tenfold = evaluate_probe(*(np.repeat(part, copies, axis=0) for part in (X, y, groups)), n_boot=400, n_shuffles=0)
    width, other = (r.probe.accuracy.high - r.probe.accuracy.low for r in (result, tenfold))
    assert other == pytest.approx(width, rel=0.25)  # rows would make it 1 / √8


def test_calibration_error_of_a_probe_that_is_sure_and_knows_nothing():
    class Sure(LinearProbe):
        def predict_proba(self, X):
            return np.tile([0.05, 0.95], (len(X), 1))

    X, y, groups, _ = attempts(5)
    result = evaluate_probe(X, y, groups, probe=Sure(), n_boot=10, n_shuffles=0)
    assert result.probe.ece == pytest.approx(abs(0.95 - y.mean()))
    assert result.probe.auroc.value == 0.5


def test_no_mixed_group_leaves_the_within_value_undefined():
    X, _, groups, _ = attempts(6)
    y = groups % 2
    scores = evaluate_probe(X, y, groups, n_boot=20, n_shuffles=0).probe
    assert np.isnan(scores.within_group_auroc.value)
    assert (scores.n_mixed_groups, scores.n_within_pairs, scores.within_group_auroc.n_undefined) == (0, 0, 20)


def test_refusals():
    X, y, groups, _ = attempts(7)
    with pytest.raises(DataError, match=r"hold 1: 1 \(360 rows\)"):
        evaluate_probe(X, np.ones_like(y), groups)
    with pytest.raises(DataError, match="3 groups cannot fill 5 folds"):
        evaluate_probe(X, y, groups % 3)
    with pytest.raises(DataError, match="one class only"):
        grouped_folds((groups == 0).astype(int), groups)
    with pytest.raises(ShapeError, match="do not fit together"):
        evaluate_probe(X, y[:-1], groups)
    with pytest.raises(ShapeError, match="baseline 'length'"):
        evaluate_probe(X, y, groups, baselines={"length": y[:-1]}, n_boot=2)
    with pytest.raises(NonFiniteError, match="row 0"):
        evaluate_probe(np.full_like(X, np.nan), y, groups)
    with pytest.raises(NonFiniteError, match="baseline 'length'"):
        evaluate_probe(X, y, groups, baselines={"length": np.full(len(y), np.inf)}, n_boot=2)


def test_partial_effect_equals_statsmodels():
    rng = np.random.default_rng(8)
    length, n = rng.standard_normal(500), 500
    feature = 0.7 * length + rng.standard_normal(n)
    y = (0.8 * feature - length + rng.logistic(size=n) > 0).astype(int)
    result = partial_effect(feature, y, {"length": length, "limit": np.zeros(n)}, np.arange(n) // 2, n_boot=300)
    standard = [(values - values.mean()) / values.std() for values in (feature, length)]
    oracle = sm.Logit(y, sm.add_constant(np.column_stack(standard))).fit(disp=0)
    assert result.effect.value == pytest.approx(oracle.params[1], rel=1e-6)
    assert result.covariates["length"].value == pytest.approx(oracle.params[2], rel=1e-6)
    assert result.dropped == ("limit",)
    low, high = oracle.conf_int()[1]
    assert (result.effect.low, result.effect.high) == pytest.approx((low, high), abs=0.1)


def test_a_proxy_of_length_has_no_partial_effect():
    rng = np.random.default_rng(9)
    length = rng.standard_normal(800)
    entropy = length + 0.3 * rng.standard_normal(800)
    y = (length + rng.logistic(size=800) > 0).astype(int)
    result = partial_effect(entropy, y, {"length": length}, np.arange(800), n_boot=200)
    assert result.alone.low > 0.5
    assert result.effect.low < 0 < result.effect.high


def test_partial_effect_of_separated_classes_is_undefined():
    y = np.repeat([0, 1], 20)
    result = partial_effect(y + np.linspace(0, 0.1, 40), y, {}, np.arange(40), n_boot=10)
    assert np.isnan(result.effect.value)
    assert result.effect.n_undefined == 10


def test_partial_effect_refusals():
    y, feature = np.arange(20) % 2, np.arange(20.0)
    with pytest.raises(DataError, match="linearly dependent"):
        partial_effect(feature, y, {"twice": 2 * feature}, y)
    with pytest.raises(DataError, match="same for every row"):
        partial_effect(np.ones(20), y, {}, y)
    with pytest.raises(DataError, match="two classes are needed"):
        partial_effect(feature, np.ones(20), {}, y)
