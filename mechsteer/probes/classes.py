"""Probes of more than two classes (which reasoning step is under way), one against the rest.

Each class has a `LinearProbe` of its own, and so a direction of its own; the class predicted is the one with the highest
probability. Tested as every probe (`mechsteer.probes.scores`): blocks of whole groups, each after all that was trained on,
beside what is known without the model's states. Where in a text a step stands says much about which it is: give the
position as a baseline.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.utils import validation

from mechsteer.errors import DataError, NonFiniteError, ShapeError
from mechsteer.probes.columns import TokenCounts, checked
from mechsteer.probes.evaluation import Columns, cached_columns, stacked_columns
from mechsteer.probes.linear import LinearProbe
from mechsteer.probes.scores import UNTESTED, ProbeScores, block_weights, probe_scores
from mechsteer.results import Interval, Result

_validate: Any = validation.validate_data
TEXT = "text"  # all baselines together


class OneVsRestProbe(ClassifierMixin, BaseEstimator):
    """A copy of `probe` (default `LinearProbe()`) per class, against all others.

    After `fit`: `classes_` (sorted), `directions_ [n_classes d_model]` and `intercepts_ [n_classes]`, where the probe has
    a direction, `probes_`. Probabilities are those of the single probes, scaled to sum to 1. Raises DataError for fewer
    than two classes.

    >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0], [0.0, 9.0], [1.0, 9.0]])
    >>> fitted = OneVsRestProbe().fit(x, ["a", "a", "b", "b", "c", "c"])
    >>> fitted.predict(x).tolist(), fitted.directions_.shape
    (['a', 'a', 'b', 'b', 'c', 'c'], (3, 2))
    """

    classes_: ndarray
    probes_: list[Any]
    directions_: Float[ndarray, "n_classes d_model"]
    intercepts_: Float[ndarray, " n_classes"]

    def __init__(self, probe: Any = None) -> None:
        self.probe = probe

    def fit(self, X: Float[ndarray, "n_samples d_model"], y: ndarray) -> OneVsRestProbe:
        """Fit on activations [n_samples d_model] and labels [n_samples] of any kind."""
        X, y = _validate(self, X, y, dtype=(np.float64, np.float32))
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise DataError(
                f"the labels hold one class only: {self.classes_[0]!r}. contains 1 class",
                "a probe separates classes: check how labels were made, and how rows were filtered.",
            )
        base: Any = LinearProbe() if self.probe is None else self.probe
        copies: list[Any] = [clone(base) for _ in self.classes_]
        self.probes_ = [each.fit(X, y == label) for each, label in zip(copies, self.classes_, strict=True)]
        if all(hasattr(each, "direction_") for each in self.probes_):
            self.directions_ = np.stack([each.direction_ for each in self.probes_])
            self.intercepts_ = np.array([each.intercept_ for each in self.probes_])
        return self

    def predict_proba(self, X: Float[ndarray, "n_samples d_model"]) -> Float[ndarray, "n_samples n_classes"]:
        """Probabilities of the classes, in the order of `classes_`."""
        validation.check_is_fitted(self)
        X = _validate(self, X, dtype=(np.float64, np.float32), reset=False)
        scores = np.column_stack([each.predict_proba(X)[:, 1] for each in self.probes_])
        return scores / np.maximum(scores.sum(1, keepdims=True), 1e-300)

    def predict(self, X: Float[ndarray, "n_samples d_model"]) -> ndarray:
        """Labels."""
        return self.classes_[self.predict_proba(X).argmax(1)]


@dataclass(frozen=True, kw_only=True)
class ClassScores(Result):
    """One class against the rest."""

    name: str
    n: int
    """rows of this class"""
    probe: ProbeScores
    text: ProbeScores | None
    """of all baselines together; None without any"""


@dataclass(frozen=True, kw_only=True)
class ClassesEvaluation(Result):
    """A probe of several classes on groups that it was not trained on."""

    _rows = "classes"

    n_samples: int
    n_groups: int
    classes: tuple[ClassScores, ...]
    accuracy: Interval
    """share of tested rows whose class is named"""
    text_accuracy: Interval | None
    gain: Interval | None
    """accuracy of the probe minus that of the text, on the same resamples"""
    commonest: float
    """accuracy of always naming the commonest class"""
    confusion: Int[ndarray, "n_classes n_named"]
    """rows: the class of a row; columns: the class named; of tested rows"""


def evaluate_classes(
    X: Float[ndarray, "n_samples d_model"],
    y: ndarray,
    groups: ndarray,
    *,
    probe: BaseEstimator | None = None,
    baselines: Mapping[str, ndarray | TokenCounts] | None = None,
    n_splits: int = 5,
    n_boot: int = 1000,
    seed: int = 0,
) -> ClassesEvaluation:
    """Evaluate a one-vs-rest probe; `probe` and `baselines` as `evaluate_probe` takes them.

    Raises ShapeError, NonFiniteError, DataError (one class, a class in too few groups).
    """
    X, y, named = np.asarray(X), np.asarray(y), np.asarray(groups)
    if X.ndim != 2 or y.shape != (len(X),) or named.shape != (len(X),):
        raise ShapeError(
            f"X {list(X.shape)}, y {list(y.shape)}, groups {list(named.shape)} do not fit together.",
            "X is [n_samples d_model]; y and groups have one entry per row.",
        )
    if not np.isfinite(X).all():
        row = int(np.flatnonzero(~np.isfinite(X).all(1))[0])
        raise NonFiniteError(f"row {row} of the features holds NaN or infinity.", "leave out rows that have no value.")
    names, labels = np.unique(y, return_inverse=True)
    clusters = np.unique(named, return_inverse=True)[1]
    blocks = class_blocks(labels, clusters, n_splits=n_splits, seed=seed)
    weights = block_weights(blocks, clusters, n_boot, np.random.default_rng(seed))
    known = {name: checked(name, values, len(labels)) for name, values in (baselines or {}).items()}
    scores = _scores(LinearProbe() if probe is None else probe, lambda _train: X, labels, blocks)
    text = None
    if known:
        text = _scores(LinearProbe(), stacked_columns([cached_columns(v) for v in known.values()]), labels, blocks)

    def of_class(i: int, table: ndarray) -> ProbeScores:
        return probe_scores(table[:, i], (labels == i).astype(int), clusters, blocks, weights)[0]

    tested = blocks >= 0
    predicted = scores[tested].argmax(1)
    right = (predicted == labels[tested]).astype(float)
    other = None if text is None else (text[tested].argmax(1) == labels[tested]).astype(float)
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (labels[tested], predicted), 1)
    return ClassesEvaluation(
        n_samples=len(labels),
        n_groups=int(clusters.max() + 1),
        classes=tuple(
            ClassScores(
                name=str(name),
                n=int((labels == i).sum()),
                probe=of_class(i, scores),
                text=None if text is None else of_class(i, text),
            )
            for i, name in enumerate(names)
        ),
        accuracy=_mean(right, clusters[tested], weights),
        text_accuracy=None if other is None else _mean(other, clusters[tested], weights),
        gain=None if other is None else _mean(right - other, clusters[tested], weights),
        commonest=float(np.bincount(labels[tested]).max() / tested.sum()),
        confusion=confusion,
    )


def class_blocks(
    labels: Int[ndarray, " n_samples"], groups: ndarray, *, n_splits: int = 5, seed: int = 0
) -> Int[ndarray, " n_samples"]:
    """`ordered_blocks` for any number of classes. Raises DataError (one class, too few groups, a class not trained on)."""
    found = np.unique(labels)
    if len(found) < 2:
        raise DataError(f"two classes or more are needed; the labels hold {len(found)}.", "check how labels were made.")
    first = -(-3 * n_splits // 5)
    if len(np.unique(groups)) < n_splits + first:
        raise DataError(
            f"{len(np.unique(groups))} groups cannot fill {n_splits + first} folds.",
            "collect more problems or lower n_splits.",
        )
    blocks = np.empty(len(labels), dtype=int)
    splitter = StratifiedGroupKFold(n_splits + first, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # fewer rows of a class than folds: what follows is refused below in our own words, or does no harm
        warnings.filterwarnings("ignore", message="The least populated class")
        for fold, (_, test) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
            blocks[test] = max(fold - first, UNTESTED)
    lacking = set(found.tolist()) - set(labels[blocks == UNTESTED].tolist())
    if lacking:
        raise DataError(
            f"what is trained on first lacks {len(lacking)} of {len(found)} classes.",
            "these sit in very few groups: collect more of them, leave them out, or change n_splits or the seed.",
        )
    return blocks


def _scores(probe: Any, made: Columns, labels: ndarray, blocks: ndarray) -> Float[ndarray, "n_samples n_classes"]:
    """Probabilities for rows of tested blocks by what was fitted on all blocks before; nan for the others."""
    scores = np.full((len(labels), labels.max() + 1), np.nan)
    for block in range(blocks.max() + 1):
        train, test = blocks < block, blocks == block
        features = made(train)
        fitted = OneVsRestProbe(probe).fit(features[train], labels[train])
        scores[test] = fitted.predict_proba(features[test])
    return scores


def _mean(values: ndarray, clusters: ndarray, weights: Float[ndarray, "n_boot n_groups"]) -> Interval:
    size = weights @ np.bincount(clusters, minlength=weights.shape[1])
    total = weights @ np.bincount(clusters, values, minlength=weights.shape[1])
    return Interval.from_draws(float(values.mean()), total / size)
