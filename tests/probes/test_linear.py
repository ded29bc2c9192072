"""Linear probes: scikit-learn's own checks, planted directions, and the promise that the direction is the decision."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import mechsteer as ms
from mechsteer.activations import Activations
from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.probes import LinearProbe, mlp_probe
from mechsteer.probes.linear import KINDS


def planted(seed=0, n=400, d_model=30, distance=3.0):
    """Two Gaussian classes a `distance` apart along a planted unit direction, far from the origin."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(d_model)
    direction /= np.linalg.norm(direction)
    y = rng.integers(0, 2, n)
    X = rng.standard_normal((n, d_model)) + distance * np.outer(y - 0.5, direction) + 7.0
    return X, y, direction


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_accepts_it(kind):
    check_estimator(LinearProbe(kind=kind))


@pytest.mark.parametrize("kind", KINDS)
def test_finds_a_planted_direction(kind):
    X, y, direction = planted()
    probe = LinearProbe(kind=kind, n_components=10).fit(X, y)
    cosine = probe.direction_ @ direction / np.linalg.norm(probe.direction_)
    assert cosine > 0.8
    fresh, labels, _ = planted()
    assert probe.score(fresh, labels) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_direction_is_the_decision_in_raw_space(kind):
    X, y, _ = planted(1)
    X = X * np.geomspace(1e-2, 1e2, X.shape[1])
    probe = LinearProbe(kind=kind).fit(X, y)
    scores = X @ probe.direction_ + probe.intercept_
    np.testing.assert_allclose(probe.decision_function(X), scores)
    np.testing.assert_array_equal(probe.predict(X), (scores > 0).astype(int))
    np.testing.assert_array_equal(probe.predict(X), probe.predict_proba(X).argmax(1))
    assert probe.score(X, y) > (0.6 if kind == "mean_difference" else 0.85)  # large coordinates drown its signal


def test_standardised_logistic_equals_a_pipeline():
    X, y, _ = planted(2)
    X = X * np.geomspace(0.1, 10, X.shape[1])
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.3)).fit(X, y)
    probe = LinearProbe(C=0.3).fit(X, y)
    np.testing.assert_allclose(probe.predict_proba(X), pipeline.predict_proba(X), atol=1e-4)


def test_mean_difference_is_the_raw_difference_of_means():
    X, y, _ = planted(3)
    probe = LinearProbe(kind="mean_difference", standardize=True).fit(X, y)
    np.testing.assert_allclose(probe.direction_, X[y == 1].mean(0) - X[y == 0].mean(0), rtol=1e-12)


def test_l1_is_sparse():
    X, y, _ = planted(4)
    X[:, 10:] = np.random.default_rng(0).standard_normal((len(X), 20))
    dense, sparse = LinearProbe(C=0.03).fit(X, y), LinearProbe(C=0.03, l1=True).fit(X, y)
    assert (dense.direction_ != 0).all()
    assert 0 < (sparse.direction_ != 0).sum() < 15


@pytest.mark.parametrize("kind", ["mean_difference", "ridge", "pca_lda"])
def test_probabilities_are_calibrated(kind):
    X, y, _ = planted(5, n=4000, d_model=5, distance=1.5)
    p = LinearProbe(kind=kind).fit(X[:2000], y[:2000]).predict_proba(X[2000:])[:, 1]
    for low in (0.1, 0.4, 0.7):
        chosen = (p > low) & (p < low + 0.2)
        assert y[2000:][chosen].mean() == pytest.approx(p[chosen].mean(), abs=0.07)


def test_uninformative_features_give_the_base_rate():
    y = np.array([0, 0, 0, 1])
    p = LinearProbe(kind="mean_difference").fit(np.ones((4, 2)), y).predict_proba(np.ones((1, 2)))
    np.testing.assert_allclose(p, [[0.75, 0.25]])


def test_string_labels_and_cross_validation():
    X, y, _ = planted(6)
    names = np.array(["lie", "truth"])[y]
    probe = LinearProbe().fit(X, names)
    assert probe.classes_.tolist() == ["lie", "truth"]
    assert set(probe.predict(X)) == {"lie", "truth"}
    assert cross_val_score(LinearProbe(), X, names, cv=3).mean() > 0.85


def test_refusals():
    X = np.eye(4)
    with pytest.raises(DataError, match="one class only"):
        LinearProbe().fit(X, [1, 1, 1, 1])
    with pytest.raises(DataError, match="Only binary"):
        LinearProbe().fit(X, [0, 1, 2, 2])
    with pytest.raises(ConfigError, match="known kinds are logistic"):
        LinearProbe(kind="svm").fit(X, [0, 0, 1, 1])


def test_what_is_no_row_per_sample_is_refused_in_words_of_our_own():
    X, y = np.random.default_rng(0).standard_normal((6, 4)), [0, 1, 0, 1, 0, 1]
    acts = Activations(
        site=ms.Site(1),
        values=torch.zeros(2, 3, 4),
        tokens=torch.zeros(2, 3).long(),
        mask=torch.ones(2, 3).bool(),
        lengths=torch.tensor([3, 3]),
        prompt_ids=(0, 1),
    )
    for given in ((acts,), (acts, [0, 1])):
        with pytest.raises(DataError, match=r"(?s)activations of whole texts: .*hint: .*acts\.pool"):
            LinearProbe().fit(*given)
    with pytest.raises(DataError, match=r"(?s)y is None.*hint: give a label of two classes per row"):
        LinearProbe().fit(X)
    with pytest.raises(DataError, match=r"(?s)6 rows of activations and 2 labels.*hint: give a label per row"):
        LinearProbe().fit(X, y[:2])
    for wrong, shape in ((X[0], r"\(4,\)"), (X[None], r"\(1, 6, 4\)"), (torch.ones(2, 3, 4), r"\(2, 3, 4\)")):
        with pytest.raises(
            ShapeError, match=rf"(?s)shape {shape}, a probe takes \[n_samples d_model\].*one row per sample"
        ):
            LinearProbe().fit(wrong, y)
    probe = LinearProbe().fit(X, y)
    for value in (np.nan, np.inf):
        X[[2, 5], 1] = value
        for call in (lambda: LinearProbe().fit(X, y), lambda: probe.predict(X)):
            with pytest.raises(
                NonFiniteError, match=r"(?s)2 of 6 rows hold NaN or infinity, the first is row 2.*float32"
            ):
                call()


def test_the_network_reads_what_no_line_can():
    rng = np.random.default_rng(7)
    X = rng.standard_normal((600, 2))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    assert LinearProbe().fit(X, y).score(X, y) < 0.65
    assert mlp_probe().fit(X[:400], y[:400]).score(X[400:], y[400:]) > 0.85
