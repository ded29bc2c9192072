"""Directions in activation space from contrastive data, each with where it comes from.

mean_difference: mean(pos) − mean(neg) (Marks & Tegmark, 2310.06824; Rimsky et al., 2312.06681).
pairwise_pca: the first principal axis of the pairwise differences about zero (Zou et al., 2310.01405). Taken
about their mean, as PCA does, the differences lose just what they have in common: the direction looked for.
logistic: the normal of a logistic regression's boundary.
from_sae: a decoder row of a sparse autoencoder.
singular_space: the mean difference within the few singular directions of a weight that separate best.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mechsteer.directions.direction import Direction, checked_samples, described
from mechsteer.errors import MechsteerWarning, ShapeError
from mechsteer.shapes import Directions, Samples

_DEGENERATE = 1e-3  # a norm below this share of the samples' standard deviation along it says nothing


def mean_difference(pos: Samples, neg: Samples) -> Direction:
    """mean(pos) − mean(neg) of samples [n_pos d_model] and [n_neg d_model].

    Warns (MechsteerWarning) where the means all but coincide. Raises ShapeError, DataError, NonFiniteError.
    """
    p, n = checked_samples(pos, neg)
    vector = p.mean(0) - n.mean(0)
    if _is_rounding(vector, p, n):
        _warn("the two means all but coincide: the mean difference is rounding, not a direction")
    return described("mean_difference", vector, pos, neg)


def pairwise_pca(pos: Samples, neg: Samples) -> Direction:
    """First principal axis of pos − neg [n_pairs d_model] about zero, not re-centred; row i of both is a pair.

    Its sign is the mean difference's, its norm the root mean square of the differences along it. Provenance
    adds explained_differences, the share of the differences' second moment that lies along it. Warns
    (MechsteerWarning) where the mean along it is within two standard errors of 0: then the pairs differ along
    it in both directions, and its sign means nothing. Raises as `mean_difference`, and where the sides differ
    in length.
    """
    p, n = checked_samples(pos, neg)
    if len(p) != len(n):
        raise ShapeError(
            f"{len(p)} positive and {len(n)} negative samples are no pairs", "pass row i of both as a pair"
        )
    differences = p - n
    _, singular, axes = torch.linalg.svd(differences, full_matrices=False)
    along = differences @ axes[0]
    sign = -1.0 if along.mean() < 0 else 1.0
    error = along.std() / len(along) ** 0.5 if len(along) > 1 else torch.zeros(())
    vector = sign * axes[0] * singular[0] / len(p) ** 0.5
    if along.mean().abs() < 2 * error or _is_rounding(vector, p, n):
        _warn("the pairs have no common difference along their first principal axis: its sign means nothing")
    total = singular.pow(2).sum()
    share = float(singular[0] ** 2 / total) if total > 0 else float("nan")
    return described("pairwise_pca", vector, pos, neg, explained_differences=share)


def logistic(pos: Samples, neg: Samples, *, C: float = 1.0) -> Direction:
    """Normal of a logistic regression fitted on standardised activations, in the original space.

    `C` is scikit-learn's inverse L2 strength. The norm is the distance of the class means along it. Warns
    (MechsteerWarning) where the fit did not converge or the means coincide along it. Raises as `mean_difference`.
    """
    p, n = checked_samples(pos, neg)
    x = torch.cat([p, n]).cpu().numpy()
    y = np.repeat([1, 0], [len(p), len(n)])
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=C, max_iter=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in our words
        model.fit(scaler.transform(x), y)
    if int(model.n_iter_[0]) >= 2000:
        _warn("the logistic regression did not converge: give a smaller C")
    normal = torch.from_numpy(model.coef_[0] / scaler.scale_).to(p.device)
    length = normal.norm()
    normal = normal / length if length > 0 else normal
    vector = normal * ((p.mean(0) - n.mean(0)) @ normal).abs()
    if _is_rounding(vector, p, n):
        _warn("the two means all but coincide along the boundary's normal")
    return described("logistic", vector, pos, neg, C=C)


def singular_space(pos: Samples, neg: Samples, rows: Directions, *, k: int = 16) -> Direction:
    """The mean difference within the `k` of the orthonormal `rows` [n_dirs d_model] that separate best.

    Rows are the singular directions of a weight (`mechsteer.bases.singular`); separation is |difference of
    means| over the pooled standard deviation, per row. Provenance adds the rows chosen. Raises as
    `mean_difference`, and ShapeError for rows that are not orthonormal.
    """
    p, n = checked_samples(pos, neg)
    basis = rows.to(p)
    if basis.ndim != 2 or basis.shape[1] != p.shape[1]:
        raise ShapeError(f"rows are {tuple(rows.shape)} for samples of {p.shape[1]}", "pass [n_dirs d_model]")
    if not torch.allclose(basis @ basis.T, torch.eye(len(basis)).to(p), atol=1e-4):
        raise ShapeError("the rows are not orthonormal", "pass singular vectors of one map")
    coordinates = (p.mean(0) - n.mean(0)) @ basis.T
    spread = torch.cat([(p - p.mean(0)) @ basis.T, (n - n.mean(0)) @ basis.T]).pow(2).mean(0).sqrt()
    chosen = torch.argsort(coordinates.abs() / spread.clamp(min=1e-12), descending=True)[:k]
    vector = coordinates[chosen] @ basis[chosen]
    if _is_rounding(vector, p, n):
        _warn("the two means all but coincide within the singular directions")
    return described("singular_space", vector, pos, neg, rows=sorted(chosen.tolist()))


METHODS: dict[str, Callable[[Tensor, Tensor], Direction]] = {
    "mean_difference": mean_difference,
    "pairwise_pca": pairwise_pca,
    "logistic": logistic,
}


def _is_rounding(vector: Tensor, pos: Tensor, neg: Tensor) -> bool:
    """The vector is nothing beside the samples' deviation from their class means along it, or beside their size."""
    length, both = vector.norm(), torch.cat([pos, neg])
    within = torch.cat([pos - pos.mean(0), neg - neg.mean(0)]) @ (vector / length.clamp(min=1e-300))
    return bool(length <= _DEGENERATE * within.std(unbiased=False)) or bool(length <= 1e-9 * both.norm(dim=1).max())


def _warn(message: str) -> None:
    warnings.warn(message, MechsteerWarning, stacklevel=3)
