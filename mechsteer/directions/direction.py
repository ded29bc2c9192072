"""A direction in activation space, its provenance, and how well it separates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mechsteer.errors import DataError, NonFiniteError, ShapeError
from mechsteer.results import Shown
from mechsteer.shapes import Directions, Samples, Vector


@dataclass(frozen=True, eq=False)
class Direction(Shown):
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


def separation(direction: Direction, pos: Samples, neg: Samples) -> dict[str, float]:
    """How well projections on the direction tell the classes apart.

    auroc, and accuracy: the mean of both classes' shares on their side of the threshold in the provenance
    (where there is none: the midpoint of these samples' means).
    """
    p, n = checked_samples(pos, neg)
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


def checked_samples(pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
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


def described(method: str, vector: Tensor, pos: Tensor, neg: Tensor, **more: Any) -> Direction:
    p, n = checked_samples(pos, neg)
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
