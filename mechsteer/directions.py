"""Directions in activation space from contrastive data, each with where it comes from.

mean_difference: mean(pos) − mean(neg) (Marks & Tegmark, 2310.06824; Rimsky et al., 2312.06681).
pairwise_pca: the first principal axis of the pairwise differences about zero (Zou et al., 2310.01405). Taken
about their mean, as PCA does, the differences lose just what they have in common: the direction looked for.
logistic: the normal of a logistic regression's boundary.
from_sae: a decoder row of a sparse autoencoder.
singular_space: the mean difference within the few singular directions of a weight that separate best.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mechsteer.activations import capture
from mechsteer.errors import ConfigError, DataError, MechsteerWarning, NonFiniteError, ShapeError
from mechsteer.prompts import ContrastivePairs, uniform_hash
from mechsteer.shapes import Directions, Samples, Vector
from mechsteer.sites import Site

_DEGENERATE = 1e-3  # a norm below this share of the samples' standard deviation along it says nothing


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector in activation space, pointing from negative to positive, not normalised.

    `provenance`: method, data_hash, n_pos, n_neg, explained_variance (share of all samples' variance that
    lies along it), threshold (midpoint of the class means along it) and, from `extract`, model, site,
    positions and held_out (see `separation`; None where there was nothing to hold out).
    """

    vector: Vector
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def norm(self) -> float:
        return float(self.vector.norm())

    @property
    def unit(self) -> Vector:
        """The vector at norm 1."""
        return self.vector / self.vector.norm()


def mean_difference(pos: Samples, neg: Samples) -> Direction:
    """mean(pos) − mean(neg) of samples [n_pos d_model] and [n_neg d_model].

    Warns (MechsteerWarning) where the means all but coincide. Raises ShapeError, DataError, NonFiniteError.
    """
    p, n = _samples(pos, neg)
    vector = p.mean(0) - n.mean(0)
    if _is_rounding(vector, p, n):
        _warn("the two means all but coincide: the mean difference is rounding, not a direction")
    return _direction("mean_difference", vector, pos, neg)


def pairwise_pca(pos: Samples, neg: Samples) -> Direction:
    """First principal axis of pos − neg [n_pairs d_model] about zero, not re-centred; row i of both is a pair.

    Its sign is the mean difference's, its norm the root mean square of the differences along it. Provenance
    adds explained_differences, the share of the differences' second moment that lies along it. Warns
    (MechsteerWarning) where the mean along it is within two standard errors of 0: then the pairs differ along
    it in both directions, and its sign means nothing. Raises as `mean_difference`, and where the sides differ
    in length.
    """
    p, n = _samples(pos, neg)
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
    return _direction("pairwise_pca", vector, pos, neg, explained_differences=share)


def logistic(pos: Samples, neg: Samples, *, C: float = 1.0) -> Direction:
    """Normal of a logistic regression fitted on standardised activations, in the original space.

    `C` is scikit-learn's inverse L2 strength. The norm is the distance of the class means along it. Warns
    (MechsteerWarning) where the fit did not converge or the means coincide along it. Raises as `mean_difference`.
    """
    p, n = _samples(pos, neg)
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
    return _direction("logistic", vector, pos, neg, C=C)


def singular_space(pos: Samples, neg: Samples, rows: Directions, *, k: int = 16) -> Direction:
    """The mean difference within the `k` of the orthonormal `rows` [n_dirs d_model] that separate best.

    Rows are the singular directions of a weight (`mechsteer.bases.singular`); separation is |difference of
    means| over the pooled standard deviation, per row. Provenance adds the rows chosen. Raises as
    `mean_difference`, and ShapeError for rows that are not orthonormal.
    """
    p, n = _samples(pos, neg)
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
    return _direction("singular_space", vector, pos, neg, rows=sorted(chosen.tolist()))


def from_sae(rows: Directions, index: int, *, source: str = "") -> Direction:
    """Row `index` of an SAE's decoder [d_sae d_model] as a direction. `source` names the SAE in the provenance."""
    if rows.ndim != 2 or not -len(rows) <= index < len(rows):
        raise ShapeError(f"no row {index} in a decoder {tuple(rows.shape)}", "pass W_dec [d_sae d_model] and a feature")
    vector = rows[index].detach().clone()
    return Direction(vector, {"method": "from_sae", "feature": index % len(rows), "source": source})


def random_direction(like: Direction | Tensor, generator: torch.Generator) -> Direction:
    """A direction of uniformly random orientation and the norm of `like`: the control of every steering claim."""
    vector = like.vector if isinstance(like, Direction) else like
    noise = torch.randn(vector.shape, generator=generator, dtype=torch.float64)
    noise = noise * (vector.norm().double().cpu() / noise.norm())
    return Direction(noise.to(vector), {"method": "random_direction", "norm": float(vector.norm())})


METHODS: dict[str, Callable[[Tensor, Tensor], Direction]] = {
    "mean_difference": mean_difference,
    "pairwise_pca": pairwise_pca,
    "logistic": logistic,
}


def separation(direction: Direction, pos: Samples, neg: Samples) -> dict[str, float]:
    """How well projections on the direction tell the classes apart.

    auroc, and accuracy: the mean of both classes' shares on their side of the threshold in the provenance
    (where there is none: the midpoint of these samples' means).
    """
    p, n = _samples(pos, neg)
    vector = direction.vector.to(p)
    along_p, along_n = (x @ vector for x in (p, n))
    threshold = direction.provenance.get("threshold")
    threshold = float(along_p.mean() + along_n.mean()) / 2 if threshold is None else threshold
    labels = np.repeat([1, 0], [len(p), len(n)])
    return {
        "auroc": float(roc_auc_score(labels, torch.cat([along_p, along_n]).cpu().numpy())),
        "accuracy": float((along_p > threshold).double().mean() + (along_n <= threshold).double().mean()) / 2,
        "n_pos": len(p),
        "n_neg": len(n),
    }


def extract(
    model: Any,
    pairs: ContrastivePairs | Sequence[tuple[str, str]],
    site: Site,
    method: str = "mean_difference",
    *,
    position: Literal["last", "mean"] = "last",
    held_out: float = 0.3,
    seed: int = 0,
    batch_size: int = 16,
) -> Direction:
    """The direction of `pairs` at `site`, with its separation on pairs that it was not computed from.

    Each text counts once: its last token, or the mean over its tokens without BOS. Groups of pairs are held
    out whole, about the share `held_out` of them (at least one, where there are two and `held_out` > 0),
    chosen by the hash of their names and the seed; without any, provenance["held_out"] is None. At z, q, k, v
    the heads are flattened.

    Raises ConfigError for an unknown method or share, and as `capture` and the method.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}", f"methods are {sorted(METHODS)}")
    if not 0 <= held_out < 1:
        raise ConfigError(f"held_out is {held_out}", "it is a share in [0, 1)")
    pairs = pairs if isinstance(pairs, ContrastivePairs) else ContrastivePairs(*zip(*pairs, strict=True))
    pos, neg = (_pooled(model, texts, site, position, batch_size) for texts in (pairs.positive, pairs.negative))
    test = torch.tensor(_held_out(pairs.groups, held_out, seed))
    found = METHODS[method](pos[~test], neg[~test])
    more = {
        "data_hash": pairs.data_hash,
        "site": site.at(model).to_dict(),
        "positions": position,
        "seed": seed,
        "held_out": separation(found, pos[test], neg[test]) if bool(test.any()) else None,
    }
    return replace(found, provenance={**found.provenance, **more})


def _pooled(
    model: Any, texts: Sequence[str], site: Site, position: Literal["last", "mean"], batch_size: int, chunk: int = 256
) -> Tensor:
    """[n_texts d_model]; only a chunk of texts is held token by token."""
    parts = []
    for start in range(0, len(texts), chunk):
        acts = capture(model, texts[start : start + chunk], [site], batch_size=batch_size, progress=False)
        parts.append(acts[site].pool(position).flatten(1))
    return torch.cat(parts)


def _held_out(groups: Sequence[str], share: float, seed: int) -> list[bool]:
    names = sorted(set(groups), key=lambda g: uniform_hash(g, seed))
    count = min(max(round(share * len(names)), 1 if share else 0), len(names) - 1)
    chosen = set(names[:count])
    return [g in chosen for g in groups]


def _samples(pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in float64, checked."""
    for name, x in (("pos", pos), ("neg", neg)):
        if x.ndim != 2 or not x.is_floating_point():
            raise ShapeError(f"{name} is {x.dtype} {tuple(x.shape)}", "pass float samples [n_samples d_model]")
        if len(x) == 0:
            raise DataError(f"{name} has no samples", "a direction needs both classes")
        if not bool(torch.isfinite(x).all()):
            raise NonFiniteError(f"{name} holds NaN or infinity", "look at the activations it was taken from")
    if pos.shape[1] != neg.shape[1]:
        raise ShapeError(f"pos has d_model {pos.shape[1]}, neg {neg.shape[1]}", "take both at one site of one model")
    return pos.detach().double(), neg.detach().to(pos.device).double()


def _is_rounding(vector: Tensor, pos: Tensor, neg: Tensor) -> bool:
    """The vector is nothing beside the samples' deviation from their class means along it, or beside their size."""
    length, both = vector.norm(), torch.cat([pos, neg])
    within = torch.cat([pos - pos.mean(0), neg - neg.mean(0)]) @ (vector / length.clamp(min=1e-300))
    return bool(length <= _DEGENERATE * within.std(unbiased=False)) or bool(length <= 1e-9 * both.norm(dim=1).max())


def _direction(method: str, vector: Tensor, pos: Tensor, neg: Tensor, **more: Any) -> Direction:
    p, n = _samples(pos, neg)
    both = torch.cat([p, n])
    centred = both - both.mean(0)
    total, norm = centred.pow(2).sum(), vector.norm()
    along = centred @ (vector / norm) if norm > 0 else torch.zeros(len(both))
    content = b"".join(x.detach().cpu().float().contiguous().numpy().tobytes() for x in (pos, neg))
    provenance = {
        "method": method,
        "data_hash": hashlib.sha256(content).hexdigest()[:16],
        "n_pos": len(p),
        "n_neg": len(n),
        "explained_variance": float(along.pow(2).sum() / total) if total > 0 else float("nan"),
        "threshold": float((p.mean(0) + n.mean(0)) @ vector) / 2,
        **more,
    }
    dtype = pos.dtype if pos.dtype in (torch.float32, torch.float64) else torch.float32
    return Direction(vector.to(dtype), provenance)


def _warn(message: str) -> None:
    warnings.warn(message, MechsteerWarning, stacklevel=3)
