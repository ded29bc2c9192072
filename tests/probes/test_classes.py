"""More than two classes: directions point at their class, a position that knows all takes the claim away, scores are held out."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.multiclass import OneVsRestClassifier

from mechsteer.errors import DataError, NonFiniteError, ShapeError
from mechsteer.probes import LinearProbe, OneVsRestProbe, evaluate_classes
from mechsteer.results import from_json, to_json

STEPS = np.array(["add", "check", "conclude"])


def steps(seed, strength=2.0, n_problems=60, d=8):
    """Each problem has one row per step, shifted along the step's own axis."""
    rng = np.random.default_rng(seed)
    y = np.tile(STEPS, n_problems)
    X = rng.standard_normal((len(y), d)) + strength * np.eye(d)[np.tile(np.arange(3), n_problems)]
    return X, y, np.repeat(np.arange(n_problems), 3)


def test_each_direction_points_at_its_class():
    X, y, _ = steps(0, strength=4.0)
    probe = OneVsRestProbe(LinearProbe("mean_difference")).fit(X, y)
    for i, label in enumerate(probe.classes_):
        expected = X[y == label].mean(0) - X[y != label].mean(0)
        np.testing.assert_allclose(probe.directions_[i], expected)
        assert probe.directions_[i].argmax() == i
    assert probe.predict_proba(X).sum(1) == pytest.approx(np.ones(len(X)))


def test_probabilities_are_those_of_scikit_learns_one_vs_rest():
    X, y, _ = steps(1)
    ours = OneVsRestProbe(LinearProbe(standardize=False)).fit(X, y)
    theirs = OneVsRestClassifier(LogisticRegression(max_iter=2000)).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=5e-3)
    assert OneVsRestProbe().get_params()["probe"] is None


def test_classes_are_scored_on_later_problems():
    result = evaluate_classes(*steps(2, n_problems=120), n_boot=200)
    assert [each.name for each in result.classes] == STEPS.tolist()
    assert all(each.probe.within_group_auroc.low > 0.65 for each in result.classes)
    assert result.accuracy.low > result.commonest == pytest.approx(1 / 3)
    assert result.confusion.sum() == pytest.approx(result.n_samples * 5 / 8, abs=4)
    assert result.confusion.trace() / result.confusion.sum() == pytest.approx(result.accuracy.value)
    assert from_json(type(result), to_json(result)) == result


def test_nothing_is_found_in_noise():
    result = evaluate_classes(*steps(3, strength=0.0), n_boot=200)
    assert result.accuracy.low < 1 / 3 < result.accuracy.high
    assert all(each.probe.auroc.low < 0.5 < each.probe.auroc.high for each in result.classes)


def test_a_position_that_knows_the_step_stands_beside_it():
    X, y, groups = steps(4)
    position = np.tile([1.0, 20.0, 40.0], 60) + np.random.default_rng(0).standard_normal(180)
    result = evaluate_classes(X, y, groups, baselines={"position": position}, n_boot=200)
    assert result.text_accuracy.value == 1.0
    assert result.gain.high < 0
    assert all(each.text.auroc.value == 1.0 for each in result.classes)


def late(y, groups, seed):
    """Whether the group that alone has the class "odd" is among those tested."""
    splitter = StratifiedGroupKFold(8, shuffle=True, random_state=seed)
    labels = np.unique(y, return_inverse=True)[1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        folds = [test for _, test in splitter.split(np.zeros(len(y)), labels, groups)]
    return any("odd" in y[test] for test in folds[3:])


def test_refusals():
    X, y, groups = steps(5, n_problems=12)
    with pytest.raises(DataError, match="two classes or more are needed; the labels hold 1"):
        evaluate_classes(X, np.zeros(len(X)), groups)
    with pytest.raises(DataError, match="one class only"):
        OneVsRestProbe().fit(X, np.zeros(len(X)))
    with pytest.raises(DataError, match="cannot fill 8 folds"):
        evaluate_classes(X, y, groups % 5)
    rare = np.where((groups == 11) & (y == "check"), "odd", y)
    seed = next(seed for seed in range(20) if late(rare, groups, seed))
    with pytest.raises(DataError, match="lacks 1 of 4 classes"):
        evaluate_classes(X, rare, groups, seed=seed)
    with pytest.raises(NonFiniteError, match="row 2"):
        evaluate_classes(np.where(np.arange(len(X))[:, None] == 2, np.nan, X), y, groups)
    with pytest.raises(ShapeError, match="do not fit together"):
        evaluate_classes(X, y[1:], groups)
