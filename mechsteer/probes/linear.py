"""Linear probes: scikit-learn estimators whose direction lives in the activation space.

Whatever a probe does inside (standardise, project), its decision is x · direction_ + intercept_ on the raw
activations, so that the direction can steer, be attributed and be drawn. Kinds:

- `logistic`: logistic regression, penalty L2 (`l1`: L1), inverse strength C;
- `ridge`: least squares on labels -1 / +1 with penalty 1 / C;
- `mean_difference`: mean(positive) - mean(negative), as it is (Marks & Tegmark 2023, "mass-mean" without the
  covariance);
- `pca_lda`: linear discriminant analysis on the leading `n_components` principal components.

The last three are given probabilities by Platt scaling: a logistic regression on the one-dimensional score, whose
threshold becomes the intercept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import validation
from sklearn.utils.multiclass import check_classification_targets

from mechsteer.activations import Activations
from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError

Kind = Literal["logistic", "ridge", "mean_difference", "pca_lda"]
KINDS = ("logistic", "ridge", "mean_difference", "pca_lda")

# Untyped: pyright reads the types off its defaults, which are strings.
_validate: Any = validation.validate_data
# scikit-learn 1.8 renamed the switch to L1 and warns on the old name.
_L1: dict[str, Any] = {"penalty": "l1"} if LogisticRegression().penalty == "l2" else {"l1_ratio": 1.0}


class LinearProbe(ClassifierMixin, BaseEstimator):
    """Two-class linear probe. After `fit`: `direction_ [d_model]`, `intercept_`, `classes_` (sorted; the second one
    is positive).

    `standardize` scales every coordinate to unit variance inside (not for mean_difference, which is a difference of
    raw means); `direction_` is the direction in raw space all the same, not normalised. `l1` belongs to `logistic`,
    `n_components` to `pca_lda` (default: at most 50, and at most a quarter of the samples).

    Raises DataError (activations of whole texts, no labels, another number of them, not exactly two classes), ShapeError
    (not one row per sample), NonFiniteError, ConfigError (kind); all but the first are scikit-learn's ValueErrors too.

    >>> x = np.array([[0.0, 5.0], [1.0, 5.0], [3.0, 5.0], [4.0, 5.0]])
    >>> probe = LinearProbe(kind="mean_difference").fit(x, [0, 0, 1, 1])
    >>> probe.direction_.tolist(), probe.predict(x).tolist()
    ([3.0, 0.0], [0, 0, 1, 1])
    """

    classes_: ndarray
    n_features_in_: int
    direction_: Float[ndarray, " d_model"]
    intercept_: float
    scale_: float
    n_iter_: int

    def __init__(
        self,
        kind: Kind = "logistic",
        *,
        C: float = 1.0,
        standardize: bool = True,
        l1: bool = False,
        n_components: int | None = None,
        max_iter: int = 2000,
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.C = C
        self.standardize = standardize
        self.l1 = l1
        self.n_components = n_components
        self.max_iter = max_iter
        self.seed = seed

    def fit(self, X: Float[ndarray, "n_samples d_model"], y: ndarray | None = None) -> LinearProbe:
        """Fit on activations [n_samples d_model] and labels [n_samples] of two classes, which have to be given."""
        _require_rows(X)
        X, labelled = _validate(self, X, _labels(X, y), dtype=(np.float64, np.float32))
        check_classification_targets(labelled)
        if self.kind not in KINDS:
            raise ConfigError(f"probe kind is {self.kind!r}.", f"known kinds are {', '.join(KINDS)}.")
        X = X.astype(np.float64, copy=False)
        self.classes_, labels = np.unique(labelled, return_inverse=True)
        if len(self.classes_) != 2:
            shown = ", ".join(map(str, self.classes_[:5]))
            # The wording up to the hint is what scikit-learn's estimator checks look for.
            only = "contains 1 class (one class only)" if len(self.classes_) == 1 else "is not binary"
            raise DataError(
                f"Only binary classification is supported. The labels' type {only}: {shown}.",
                "a probe separates two classes: check how labels were made, and how rows were filtered.",
            )
        self.n_iter_ = 1
        scaled = self.standardize and self.kind != "mean_difference"
        deviation = X.std(0) if scaled else np.ones(X.shape[1])
        deviation = np.where(deviation > 0, deviation, 1.0)
        centre = X.mean(0)
        direction, intercept = self._fit_inside((X - centre) / deviation, labels)
        self.direction_ = direction / deviation
        self.intercept_ = float(intercept - centre @ self.direction_)
        return self

    def decision_function(self, X: Float[ndarray, "n_samples d_model"]) -> Float[ndarray, " n_samples"]:
        """x · direction_ + intercept_; positive means `classes_[1]`."""
        validation.check_is_fitted(self)
        _require_rows(X)
        X = _validate(self, X, dtype=(np.float64, np.float32), reset=False)
        return X @ self.direction_ + self.intercept_

    def predict(self, X: Float[ndarray, "n_samples d_model"]) -> ndarray:
        """Labels."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int)]

    def predict_proba(self, X: Float[ndarray, "n_samples d_model"]) -> Float[ndarray, "n_samples 2"]:
        """Probabilities of both classes."""
        scores = self.decision_function(X)
        positive = expit(self.scale_ * scores)
        return np.column_stack([1 - positive, positive])

    def _fit_inside(self, X: ndarray, labels: ndarray) -> tuple[ndarray, float]:
        """Direction and intercept for the centred, scaled X; sets `scale_`."""
        if self.kind == "logistic":
            model = LogisticRegression(C=self.C, max_iter=self.max_iter, **self._l1_solver()).fit(X, labels)
            self.scale_, self.n_iter_ = 1.0, int(model.n_iter_[0])
            return model.coef_[0], float(model.intercept_[0])
        if self.kind == "ridge":
            direction = Ridge(alpha=1 / self.C).fit(X, 2.0 * labels - 1).coef_
        elif self.kind == "pca_lda":
            n_components = self.n_components or max(1, min(50, len(X) // 4, X.shape[1]))
            pca = PCA(n_components, random_state=self.seed).fit(X)
            lda = LinearDiscriminantAnalysis().fit(pca.transform(X), labels)
            direction = lda.coef_[0] @ pca.components_
        else:
            direction = X[labels == 1].mean(0) - X[labels == 0].mean(0)
        return direction, self._platt(X @ direction, labels)

    def _l1_solver(self) -> dict[str, Any]:
        return {**_L1, "solver": "liblinear", "random_state": self.seed} if self.l1 else {}

    def _platt(self, scores: ndarray, labels: ndarray) -> float:
        """Fit `scale_` (slope) and return the intercept of the score, so that 0 is probability one half."""
        spread = scores.std()
        if spread == 0:
            self.scale_ = 1.0
            return float(np.log(labels.mean() / (1 - labels.mean())))
        model = LogisticRegression().fit((scores / spread)[:, None], labels)
        slope = max(float(model.coef_[0, 0]), 1e-6) / spread
        self.scale_ = slope
        return float(model.intercept_[0]) / slope

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _require_rows(X: Any) -> None:
    """Raise for what is no array [n_samples d_model] of numbers. Lists, frames and the rest are scikit-learn's to read."""
    if isinstance(X, Activations):
        raise DataError(
            f"a probe takes one row per sample, and these are activations of whole texts: {X!r:.120}",
            'take one row per text, acts.pool("last"), or one per token, acts.flat(), and a label for each',
        )
    if not hasattr(X, "__array__") or not hasattr(X, "dtype"):
        return
    if X.ndim != 2:
        raise ShapeError(
            f"the activations have shape {tuple(X.shape)}, a probe takes [n_samples d_model]",
            "Reshape your data: one row per sample, of each text one token or their mean",
        )
    values: ndarray = np.asarray(X)
    if values.dtype.kind != "f" or not values.size:
        return
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise NonFiniteError(
            f"{len(bad)} of {len(values)} rows hold NaN or infinity, the first is row {bad[0]}",
            "leave these rows out, or load the model in float32: half precision overflows",
        )


def _labels(X: Any, y: Any) -> Any:
    """The labels. Raises DataError without any, and where there is not one per row."""
    if y is None:
        raise DataError(
            "LinearProbe requires y to be passed, but the target y is None",
            "give a label of two classes per row: fit(rows, labels)",
        )
    n_rows, n_labels = _length(X), _length(y)
    if None not in (n_rows, n_labels) and n_rows != n_labels:
        raise DataError(f"{n_rows} rows of activations and {n_labels} labels", "give a label per row")
    return y


def _length(values: Any) -> int | None:
    """How many rows, where that can be told."""
    shape = getattr(values, "shape", None)
    if shape is not None:
        return shape[0] if len(shape) else None
    return len(values) if isinstance(values, Sequence) else None


def mlp_probe(hidden: int = 32, *, alpha: float = 1e-2, max_iter: int = 500, seed: int = 0) -> Pipeline:
    """The non-linear reference: standardised activations, one hidden layer. It has no direction; what it reads
    beyond a `LinearProbe` is not linearly there."""
    network = MLPClassifier(
        (hidden,),
        alpha=alpha,
        max_iter=max_iter,
        learning_rate_init=1e-2,
        early_stopping=True,
        n_iter_no_change=25,
        random_state=seed,
    )
    return make_pipeline(StandardScaler(), network)
