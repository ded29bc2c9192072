"""Do features form groups? Clusters by what they write or by when they fire, beside the same procedure on what has none.

    cosine        of decoder rows                                 distance 1 − cos
    jaccard       tokens where both fire / where either fires     distance 1 − J
    correlation   of activations (Pearson)                        distance 1 − r

Any cloud of points can be cut into clusters, so a silhouette says nothing by itself: it stands beside those of `n_nulls`
data sets without groups, cut by the same procedure, the choice of the number of clusters included.

    cosine        one cloud of unit vectors with the rows' own mean and covariance, see `mechsteer.features.cloud`. (Not
                  a rotated dictionary: a rotation keeps every cosine, and with them the clusters.)
    the others    each feature's activations in an order of their own: how often each fires is kept, that they fire
                  together is not

agglomerative: average linkage; the number of clusters among `n_clusters` with the highest silhouette. hdbscan
(Campello et al. 2013): finds their number, and leaves as noise (−1) what belongs to none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from numpy.typing import ArrayLike
from sklearn.cluster import HDBSCAN, AgglomerativeClustering
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_samples
from torch import Tensor

from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.features.cloud import one_cloud
from mechsteer.results import Interval, Result

Method = Literal["agglomerative", "hdbscan"]
Together = Literal["jaccard", "correlation"]
NOISE = -1


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """How features are grouped. `n_clusters` is agglomerative's alone, `min_size` hdbscan's."""

    method: Method = "agglomerative"
    n_clusters: tuple[int, ...] = (2, 4, 8, 16, 32)
    min_size: int = 5
    n_nulls: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(f"no clustering {self.method!r}", f"there are {get_args(Method)}")
        if not self.n_clusters or min(self.n_clusters) < 2 or self.min_size < 2 or self.n_nulls < 0:
            raise ConfigError(
                f"n_clusters={self.n_clusters}, min_size={self.min_size}, n_nulls={self.n_nulls}",
                "clusters and the least size are at least 2, the nulls 0 or more",
            )


@dataclass(frozen=True, kw_only=True)
class FeatureClusters(Result):
    """Features in groups, and what the same procedure finds where there are none.

    Clusters are numbered by size, 0 the largest; −1 is noise. Undefined (fewer than two clusters) is nan.
    """

    features: tuple[int, ...]
    by: str
    method: str
    labels: Int[ndarray, " n_features"]
    sizes: tuple[int, ...]
    silhouette: float
    """mean over the features that are in a cluster; −1 to 1"""
    silhouettes: Float[ndarray, " n_features"]
    """of each feature; nan for noise"""
    null: Interval | None
    """mean, lowest and highest silhouette of the nulls; None where none was asked for"""
    null_kind: str
    p_value: float
    """of the silhouette among the nulls; a null in which there are no clusters does not reach it"""
    map: Float[ndarray, "n_features 2"]
    """first two principal components, for a picture"""
    map_variance: tuple[float, float]
    """their shares of the variance"""

    @property
    def n_noise(self) -> int:
        """Features in no cluster."""
        return int((self.labels == NOISE).sum())

    def members(self, cluster: int) -> list[int]:
        """The features of a cluster, the most typical first."""
        own = np.flatnonzero(self.labels == cluster)
        return [self.features[i] for i in own[np.argsort(-self.silhouettes[own], kind="stable")]]


def cluster_by_decoder(
    rows: Float[Tensor, "n_features d_in"], features: Sequence[int] | None = None, how: Clustering | None = None
) -> FeatureClusters:
    """Clusters of features that write alike: `rows` of the decoder, of `features` (default 0, 1, ...).

    Raises ShapeError, NonFiniteError, and DataError for rows that are zero and for fewer than four.
    """
    values = rows.detach().cpu().double().numpy()
    features, how = _named(values, features, axis=0), how or Clustering()
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    _refuse(features, norms[:, 0] == 0, "have a decoder row that is zero")
    units = values / norms
    rng = np.random.default_rng(how.seed)
    cloud = one_cloud(units, rng)
    nulls = (_cosine(cloud.draw(rng)) for _ in range(how.n_nulls))
    return _clusters(_cosine(units), units, nulls, features, how, "cosine", "one cloud of the same mean and covariance")


def cluster_by_firing(
    feature_acts: Float[Tensor, "n_tokens n_features"],
    features: Sequence[int] | None = None,
    how: Clustering | None = None,
    *,
    by: Together = "jaccard",
) -> FeatureClusters:
    """Clusters of features that fire together: activations on the same tokens (no padding), a column per feature.

    Raises ShapeError, NonFiniteError, ConfigError, and DataError for features that never fire (for the correlation: do
    not vary) and for fewer than four.
    """
    if by not in get_args(Together):
        raise ConfigError(f"no similarity {by!r} of firing", f"there are {get_args(Together)}")
    acts = feature_acts.detach().cpu().numpy()
    features, how = _named(acts, features, axis=1), how or Clustering()
    if by == "jaccard":
        similar: Callable[[ndarray], ndarray] = _jaccard
        acts = acts > 0
        _refuse(features, ~acts.any(0), "never fire on these tokens")
    else:
        similar = _correlation
        _refuse(features, np.ptp(acts, axis=0) == 0, "do not vary over these tokens")
    rng = np.random.default_rng(how.seed)
    nulls = (similar(rng.permuted(acts, axis=0)) for _ in range(how.n_nulls))
    similarity = similar(acts)
    return _clusters(
        similarity, similarity, nulls, features, how, by, "each feature's activations in an order of its own"
    )


def _named(values: ndarray, features: Sequence[int] | None, *, axis: int) -> tuple[int, ...]:
    """The ids of the features of a matrix, which is checked."""
    if values.ndim != 2:
        raise ShapeError(
            f"features have shape {values.shape}", "expected decoder rows, or activations [n_tokens n_features]"
        )
    ids = tuple(range(values.shape[axis])) if features is None else tuple(int(i) for i in features)
    if len(ids) != values.shape[axis] or len(set(ids)) != len(ids):
        raise ShapeError(f"{len(ids)} ids for {values.shape[axis]} features", "one id per feature, each once")
    if len(ids) < 4:
        raise DataError(f"{len(ids)} features cannot be grouped", "give at least four")
    if not np.isfinite(values).all():
        raise NonFiniteError("NaN or infinity in the features", "leave out what was not computed")
    return ids


def _refuse(features: Sequence[int], where: ArrayLike, what: str) -> None:
    wrong = np.asarray(where)
    if wrong.any():
        some = [features[i] for i in np.flatnonzero(wrong)[:5]]
        raise DataError(f"{int(wrong.sum())} features {what}, such as {some}", "leave them out: they are like nothing")


def _cosine(units: ndarray) -> ndarray:
    return units @ units.T


def _jaccard(fires: ndarray) -> ndarray:
    both = fires.T.astype(np.float32) @ fires.astype(np.float32)  # exact up to 2^24 tokens
    each = fires.sum(0)
    return both / (each[:, None] + each[None, :] - both)


def _correlation(acts: ndarray) -> ndarray:
    centred = acts.astype(np.float64) - acts.mean(0)
    centred /= np.linalg.norm(centred, axis=0)
    return centred.T @ centred


def _clusters(
    similarity: ndarray,
    points: ndarray,
    nulls: Iterator[ndarray],
    features: tuple[int, ...],
    how: Clustering,
    by: str,
    null_kind: str,
) -> FeatureClusters:
    labels, silhouettes = _cut(similarity, how)
    value = _mean(silhouettes)
    drawn = np.array([_mean(_cut(each, how)[1]) for each in nulls])
    pca = PCA(2, svd_solver="full").fit(points)
    return FeatureClusters(
        features=features,
        by=by,
        method=how.method,
        labels=labels,
        sizes=tuple(np.bincount(labels[labels != NOISE]).tolist()),
        silhouette=value,
        silhouettes=silhouettes,
        null=_range(drawn) if len(drawn) else None,
        null_kind=null_kind,
        p_value=(1 + int((drawn >= value).sum())) / (1 + len(drawn)) if len(drawn) and value == value else float("nan"),
        map=pca.transform(points),
        map_variance=(float(pca.explained_variance_ratio_[0]), float(pca.explained_variance_ratio_[1])),
    )


def _range(drawn: ndarray) -> Interval:
    defined = drawn[np.isfinite(drawn)]
    return Interval.from_draws(float(defined.mean()) if len(defined) else float("nan"), drawn, confidence=1.0)


def _cut(similarity: ndarray, how: Clustering) -> tuple[ndarray, ndarray]:
    """(labels, silhouette of each feature) at these similarities [n n]."""
    distance = np.clip(1 - similarity, 0, None)
    distance = (distance + distance.T) / 2  # rounding differs by side
    np.fill_diagonal(distance, 0)
    if how.method == "hdbscan":
        # scikit-learn's own signature lacks the type of `copy`, whose default changes
        hdbscan: Any = HDBSCAN
        found = hdbscan(min_cluster_size=how.min_size, metric="precomputed", copy=True).fit_predict(distance)
        return _by_size(found), _silhouettes(distance, found)
    tried = []
    for n in (n for n in how.n_clusters if n < len(distance)):
        cut = AgglomerativeClustering(n, metric="precomputed", linkage="average")
        labels = cut.fit_predict(distance)
        tried.append((labels, _silhouettes(distance, labels)))
    if not tried:
        raise ConfigError(
            f"{len(distance)} features into {how.n_clusters} clusters", "give fewer clusters than there are features"
        )
    labels, silhouettes = max(tried, key=lambda each: _mean(each[1]))
    return _by_size(labels), silhouettes


def _silhouettes(distance: ndarray, labels: ndarray) -> ndarray:
    """Of each feature; nan for noise, and everywhere where there are fewer than two clusters."""
    found, own = np.full(len(labels), np.nan), labels >= 0
    if 2 <= len(set(labels[own])) < own.sum():
        found[own] = silhouette_samples(distance[np.ix_(own, own)], labels[own], metric="precomputed")
    return found


def _mean(silhouettes: ndarray) -> float:
    defined = silhouettes[np.isfinite(silhouettes)]
    return float(defined.mean()) if len(defined) else float("nan")


def _by_size(labels: ndarray) -> ndarray:
    """The same groups, numbered from the largest to the smallest (of equal ones by their first member); noise stays."""
    groups = sorted(
        set(labels[labels >= 0].tolist()), key=lambda g: (-int((labels == g).sum()), int((labels == g).argmax()))
    )
    named = np.full(len(labels), NOISE, dtype=np.int64)
    for number, group in enumerate(groups):
        named[labels == group] = number
    return named
