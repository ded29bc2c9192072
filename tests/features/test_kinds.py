"""Kinds that the columns tell are told; kinds that they do not are not, whatever the classes' sizes; copies do not leak."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.features import ContextAccumulator, classify_kinds, firing_columns
from mechsteer.results import from_json, to_json

KINDS = np.repeat(["names", "numbers", "signs"], [60, 25, 15])


def columns(separation, seed=0):
    rng = np.random.default_rng(seed)
    centres = {"names": (0, 0, 0), "numbers": (separation, 0, 0), "signs": (0, separation, 0)}
    return np.array([centres[kind] for kind in KINDS]) + rng.standard_normal((len(KINDS), 3))


def test_kinds_that_differ_are_told():
    found = classify_kinds(columns(5), KINDS)
    assert found.accuracy.value > 0.9
    assert found.gain.low > 0.2
    assert found.majority.value == pytest.approx(0.6)
    assert found.gain.value == pytest.approx(found.accuracy.value - 0.6)
    assert found.kinds == ("names", "numbers", "signs")
    confusion = np.array(found.confusion)
    assert confusion.sum(1).tolist() == [60, 25, 15]
    assert np.trace(confusion) / 100 == pytest.approx(found.accuracy.value)
    assert found.balanced_accuracy.value == pytest.approx((np.diag(confusion) / confusion.sum(1)).mean())
    assert found.classifier.predict(np.array([[5.0, 0, 0], [0, 5.0, 0]])).tolist() == ["numbers", "signs"]
    again = from_json(type(found), to_json(found))
    assert again == found
    assert again.classifier is None


def test_columns_that_tell_nothing_gain_nothing():
    """Over 20 draws the interval of the gain is above zero about never."""
    gains = [classify_kinds(columns(0, seed), KINDS, n_boot=200).gain for seed in range(20)]
    assert sum(gain.low > 0 for gain in gains) <= 2
    assert np.mean([gain.value for gain in gains]) < 0.03


def test_copies_in_one_group_do_not_tell_each_other():
    """Labels at random, every feature there twice: without groups a copy gives its twin away."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(rng.permutation(np.repeat(["a", "b"], 40)), 2)
    x = np.repeat(rng.standard_normal((80, 4)), 2, axis=0)
    near = KNeighborsClassifier(1)
    assert classify_kinds(x, kinds, estimator=near, n_boot=50).accuracy.value > 0.75
    grouped = classify_kinds(x, kinds, np.repeat(np.arange(80), 2), estimator=near, n_boot=50)
    assert grouped.accuracy.value < 0.65
    assert grouped.n_groups == 80


def test_columns_of_what_a_feature_fires_on():
    tokens = torch.tensor([[1, 2, 3, 4]])
    acts = torch.tensor([[[4.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    seen = ContextAccumulator([0, 1])
    seen.update(tokens, acts)
    live, dead = seen.result()
    assert np.exp(firing_columns([live])[0][:3]) == pytest.approx([0.5, 4, 3])
    assert firing_columns([live])[0][3:] == pytest.approx([2 / 3, 1])
    with pytest.raises(DataError, match=r"\[1\] never fire"):
        firing_columns([live, dead])


def test_refusals():
    x = columns(1)
    with pytest.raises(ShapeError, match="one kind and one group"):
        classify_kinds(x[:5], KINDS)
    with pytest.raises(DataError, match="at least two kinds"):
        classify_kinds(x, ["a"] * len(x))
    with pytest.raises(DataError, match=r"\['signs'\] have features in fewer than 16"):
        classify_kinds(x, KINDS, n_splits=16)
    with pytest.raises(ConfigError, match="at least 2 folds"):
        classify_kinds(x, KINDS, n_splits=1)
    x[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="columns"):
        classify_kinds(x, KINDS)
