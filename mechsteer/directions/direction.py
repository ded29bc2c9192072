"""A direction in activation space, its provenance, and how well it separates."""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mechsteer.adapters.vectors import as_vector
from mechsteer.bases import as_sae
from mechsteer.bases.autoencoders import sae_metadata
from mechsteer.directions.combining import combined, require_one_model
from mechsteer.errors import DataError, NonFiniteError, ShapeError
from mechsteer.models.sites import Site, as_site
from mechsteer.results import Shown
from mechsteer.runtime.drawing import as_generator
from mechsteer.shapes import Samples, Vector


@dataclass(frozen=True, eq=False, repr=False)
class Direction(Shown):
    """A vector in activation space, pointing from negative to positive, not normalised. It is a value:

    `-v`, `2 * v`, `v / 2`, `v + w`, `v - w` are directions, `v @ w` is the dot product.

    `provenance`: method, data_hash, n_pos, n_neg, explained_variance (share of all samples' variance that
    lies along it), threshold (midpoint of the class means along it) and, from `extract`, model, model_fingerprint,
    site, positions and held_out (see `separation`; None where there was nothing to hold out). That of a combination
    lists its terms, each with its coefficient and its own provenance, and keeps the site and the model that all of
    them share (see `mechsteer.directions.combining`).

    >>> v, w = (Direction(torch.eye(2)[i], {"method": name}) for i, name in enumerate("vw"))
    >>> (2 * v - w / 4).name, (2 * v - w / 4).vector.tolist(), (v + w) @ v
    ('2 * v - 0.25 * w', [2.0, -0.25], 1.0)
    """

    vector: Vector
    provenance: Mapping[str, Any] = field(default_factory=dict)

    __array_ufunc__ = None  # NumPy's numbers leave the product to us

    @property
    def norm(self) -> float:
        return float(self.vector.norm())

    @property
    def name(self) -> str:
        """Its own name (see `named`), or what it is a combination of, or its method."""
        return str(self.provenance.get("name") or self.provenance.get("method") or "direction")

    @property
    def site(self) -> Site | None:
        """Where it was found; None where its provenance does not say."""
        site = self.provenance.get("site")
        return Site.from_dict(site) if isinstance(site, Mapping) else None

    def named(self, name: str) -> Direction:
        """The same under a name, which combinations are told by."""
        return replace(self, provenance={**self.provenance, "name": name})

    def unit(self) -> Direction:
        """The same at norm 1. Raises DataError for the zero vector."""
        if self.norm == 0:
            raise DataError(f"the direction {self.name} is the zero vector", "it points nowhere: find another")
        return self / self.norm

    def cosine(self, other: Direction | Tensor) -> float:
        """Cosine of the angle to another. Raises as `unit` and `+`; sites may differ."""
        other = Direction(other) if isinstance(other, Tensor) else other
        return self.unit() @ other.unit()

    def __neg__(self) -> Direction:
        return self * -1.0

    def __mul__(self, factor: float) -> Direction:
        number = _number(factor)
        if number is None:
            return NotImplemented
        return Direction(number * self.vector, combined([(number, self.name, self.provenance)]))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Direction:
        number = _number(divisor)
        if number is None:
            return NotImplemented
        if number == 0:
            raise NonFiniteError(f"the direction {self.name} is divided by 0", "divide by another number")
        return self * (1 / number)

    def __add__(self, other: Direction) -> Direction:
        if not isinstance(other, Direction):
            return NotImplemented
        self._check_fits(other)
        terms = [(1.0, each.name, each.provenance) for each in (self, other)]
        return Direction(self.vector + other.vector.to(self.vector.device), combined(terms))

    def __sub__(self, other: Direction) -> Direction:
        return self + -other if isinstance(other, Direction) else NotImplemented

    def __matmul__(self, other: Direction | Tensor) -> float:
        other = Direction(other) if isinstance(other, Tensor) else other
        if not isinstance(other, Direction):
            return NotImplemented
        self._check_fits(other)
        return float(self.vector.flatten().double().cpu() @ other.vector.flatten().double().cpu())

    def _check_fits(self, other: Direction) -> None:
        """Raises where the two are vectors of different spaces."""
        if self.vector.shape != other.vector.shape:
            shapes = tuple(self.vector.shape), tuple(other.vector.shape)
            raise ShapeError(
                f"{self.name} has shape {shapes[0]}, {other.name} {shapes[1]}", "take both at one site of one model"
            )
        require_one_model(self.provenance, other.provenance)

    def __repr__(self) -> str:
        where = "" if self.site is None else f", {self.site}"
        return f"Direction({self.name}{where}, shape {tuple(self.vector.shape)}, norm {self.norm:.4g})"


def _number(value: Any) -> float | None:
    """A real number, also one of NumPy's or torch's; None for anything else. Raises NonFiniteError."""
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    if not math.isfinite(value):
        raise NonFiniteError(f"a direction times {value}", "give a finite number")
    return float(value)


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
