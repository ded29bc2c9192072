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

from mechsteer.adapters.vectors import as_vector
from mechsteer.bases import as_sae
from mechsteer.bases.autoencoders import sae_metadata
from mechsteer.errors import DataError, NonFiniteError, ShapeError
from mechsteer.models.sites import as_site
from mechsteer.runtime.drawing import as_generator
from mechsteer.shapes import Samples, Vector


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


def from_sae(sae: Any, index: int, *, source: str = "") -> Direction:
    """Row `index` of an SAE's decoder as a direction, as long as it is stored. `source` names the SAE in the provenance.

    `sae`: a sae_lens SAE, what `train_sae` or `load_sae` returns, `bases.from_sae(sae)`, or a decoder [d_sae d_model].
    Provenance has the site and the model that the SAE was saved with. Raises ShapeError for a feature it has not.
    """
    rows = sae if isinstance(sae, Tensor) else as_sae(sae).W_dec
    is_index = isinstance(index, (int, np.integer)) and not isinstance(index, bool)
    if rows.ndim != 2 or not is_index or not -len(rows) <= index < len(rows):
        raise ShapeError(f"no row {index} in a decoder {tuple(rows.shape)}", "pass W_dec [d_sae d_model] and a feature")
    known = {} if isinstance(sae, Tensor) else sae_metadata(as_sae(sae))
    more = {key: known[key] for key in ("model_fingerprint", "site") if known.get(key) is not None}
    if isinstance(more.get("site"), str):
        more["site"] = as_site(more["site"]).to_dict()
    vector = rows[index].detach().clone()
    return Direction(vector, {"method": "from_sae", "feature": int(index) % len(rows), "source": source, **more})


def random_direction(
    like: Direction | Tensor, generator: torch.Generator | None = None, *, seed: int | None = None
) -> Direction:
    """A direction of uniformly random orientation and the norm of `like`: the control of every steering claim.

    Drawn from `generator`, or from a new one of `seed`; from torch's own where neither is given.
    """
    generator = as_generator(generator, seed)
    vector = as_vector(like, "a random direction")
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
        if not isinstance(x, Tensor):
            raise ShapeError(f"{name} is a {type(x).__name__}", "pass float tensors [n_samples d_model]")
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
