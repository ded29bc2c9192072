"""Which kind is a feature of? A classifier taught on labelled examples, believed as far as it beats the commonest kind.

Kinds are what somebody has read off the contexts of some features ("names", "punctuation", "arithmetic", ...). Columns are
anything known of every feature: decoder rows, or `firing_columns`. Every feature is scored by a classifier that was not
taught on it, nor on its group (features that are near copies of each other, split or absorbed, belong in one group).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.features.contexts import FeatureContexts
from mechsteer.results import Interval, Result, cluster_weights, live

FIRING_COLUMNS = ("ln density", "ln f_max", "ln mean where it fires", "mass on the first token", "mass on 5 tokens")


@dataclass(frozen=True, kw_only=True)
class FeatureKinds(Result):
    """How well kinds of features are told, out of fold. Intervals resample groups of features, with the folds as they are:
    the scatter of other foldings is not in them."""

    kinds: tuple[str, ...]
    n_features: int
    n_groups: int
    accuracy: Interval
    balanced_accuracy: Interval
    """mean over kinds of the share of its features that are told; 1 / n_kinds for any constant answer"""
    majority: Interval
    """accuracy of always saying the commonest kind"""
    gain: Interval
    """accuracy minus that of the commonest kind, on the same resamples"""
    confusion: tuple[tuple[int, ...], ...]
    """one row per true kind, one column per told kind, in the order of `kinds`"""
    told: tuple[str, ...]
    """the kind that each feature was told to be of, out of fold"""
    classifier: Any = live()
    """fitted on all labelled features: `classifier.predict(columns of others)`"""


def classify_kinds(
    columns: Float[ndarray, "n_features n_columns"],
    kinds: Sequence[str],
    groups: Sequence[int] | None = None,
    *,
    estimator: BaseEstimator | None = None,
    n_splits: int = 5,
    n_boot: int = 1000,
    seed: int = 0,
) -> FeatureKinds:
    """Teach a classifier (default: logistic regression on standardised columns) the kinds of labelled features.

    `groups` [n_features]: features of one group are taught or tested together (default: each its own). Raises
    ShapeError, NonFiniteError, and DataError for one kind only and for kinds in fewer than `n_splits` groups.
    """
    values, labels = np.asarray(columns, dtype=np.float64), np.array(list(kinds), dtype=str)
    clusters = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    _check(values, labels, clusters, n_splits, n_boot)
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)) if estimator is None else estimator
    told = np.empty_like(labels)
    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    for train, test in folds.split(values, labels, clusters):
        fitted: Any = clone(model)
        told[test] = fitted.fit(values[train], labels[train]).predict(values[test])
    names = np.unique(labels)
    weights = cluster_weights(int(clusters.max()) + 1, n_boot, np.random.default_rng(seed))[:, clusters]
    commonest = names[np.argmax([(labels == name).sum() for name in names])]
    right, constant = (told == labels).astype(float), (labels == commonest).astype(float)
    final: Any = clone(model)
    return FeatureKinds(
        kinds=tuple(names.tolist()),
        n_features=len(labels),
        n_groups=int(clusters.max()) + 1,
        accuracy=_share(right, weights),
        balanced_accuracy=_balanced(labels, told, weights),
        majority=_share(constant, weights),
        gain=_share(right - constant, weights),
        confusion=tuple(tuple(row) for row in confusion_matrix(labels, told, labels=names).tolist()),
        told=tuple(told.tolist()),
        classifier=final.fit(values, labels),
    )


def firing_columns(seen: Sequence[FeatureContexts]) -> Float[ndarray, "n_features 5"]:
    """What `FIRING_COLUMNS` names, per feature. Raises DataError for features that never fire."""
    if dead := [each.feature for each in seen if each.density == 0]:
        raise DataError(f"features {dead[:5]} never fire", "leave them out: nothing is known of them")
    return np.array(
        [
            (
                math.log(each.density),
                math.log(each.f_max),
                math.log(each.mean / each.density),
                each.token_shares[0][1],
                each.top5_share,
            )
            for each in seen
        ]
    )


def _check(values: ndarray, labels: ndarray, clusters: ndarray, n_splits: int, n_boot: int) -> None:
    if n_splits < 2 or n_boot < 1:
        raise ConfigError(f"n_splits={n_splits}, n_boot={n_boot}", "at least 2 folds and 1 resample")
    if values.ndim != 2 or not len(values) == len(labels) == len(clusters):
        raise ShapeError(
            f"columns {values.shape} for {len(labels)} kinds in {len(clusters)} groups",
            "expected columns [n_features n_columns], one kind and one group per feature",
        )
    if not np.isfinite(values).all():
        raise NonFiniteError("NaN or infinity in the columns", "leave out features of which nothing is known")
    names = np.unique(labels)
    if len(names) < 2:
        raise DataError(f"all features are of the kind {names.tolist()}", "label features of at least two kinds")
    rare = [str(name) for name in names if len(set(clusters[labels == name])) < n_splits]
    if rare:
        raise DataError(
            f"kinds {rare} have features in fewer than {n_splits} groups", "label more of them, or ask for fewer folds"
        )


def _share(values: ndarray, weights: ndarray) -> Interval:
    return Interval.from_draws(float(values.mean()), weights @ values / weights.sum(1))


def _balanced(labels: ndarray, told: ndarray, weights: ndarray) -> Interval:
    """Mean over kinds of the share that is told; nan in resamples that lack a kind."""
    own = (labels[None, :] == np.unique(labels)[:, None]).astype(float)  # [n_kinds n_features]
    with np.errstate(invalid="ignore"):
        draws = ((weights @ (own * (labels == told)).T) / (weights @ own.T)).mean(1)
    value = float((own @ (labels == told) / own.sum(1)).mean())
    return Interval.from_draws(value, draws)
