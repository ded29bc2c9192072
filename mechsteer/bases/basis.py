"""Basis: labelled unit directions that a steering delta is expressed in, and where they come from.

    from_sae(sae)         rows of an SAE's decoder
    singular(model, ...)  singular vectors of the maps that read a site (W·diag(norm scale) = U S Vᵀ, directions V)
                          or that write it (W = U S Vᵀ, directions U)
    from_directions(...)  anything else

Every map of a model has a basis of its own. `singular` over several maps is their union, which is overcomplete;
`Basis.split` gives the orthonormal ones back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mechsteer.bases.autoencoders import as_sae, sae_metadata
from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.results import plain
from mechsteer.shapes import Directions


@dataclass(frozen=True, eq=False, repr=False)
class Basis:
    """Unit rows `directions` [n_dirs d_model], one label each, and their provenance `source`.

    `values` [n_dirs]: singular values, where there are any. `blocks`: (name, first, end) of each map's directions.
    `sae`: the autoencoder behind decoder rows, for the encoder's reading. `norm`: what a vector of the residual
    stream passes before these directions meet it (reading maps), None for the residual stream itself.

    Raises ShapeError (no matrix, labels that do not fit), NonFiniteError, DataError (rows that are not unit
    vectors; rows of zeros, which a dead feature leaves, are allowed and never picked).
    """

    directions: Directions
    labels: tuple[str, ...]
    source: Mapping[str, Any] = field(default_factory=dict)
    values: Tensor | None = None
    blocks: tuple[tuple[str, int, int], ...] = ()
    sae: Any = field(default=None, repr=False)
    norm: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    is_orthonormal: bool = field(init=False)

    def __post_init__(self) -> None:
        rows = self.directions
        if not isinstance(rows, Tensor) or rows.ndim != 2 or not rows.is_floating_point() or not len(rows):
            what = f"{list(rows.shape)}, {rows.dtype}" if isinstance(rows, Tensor) else type(rows).__name__
            raise ShapeError(f"directions are {what}", "a basis needs a float matrix [n_dirs d_model]")
        object.__setattr__(self, "labels", tuple(str(label) for label in self.labels))
        n_dirs = len(rows)
        if len(self.labels) != n_dirs or (self.values is not None and self.values.shape != (n_dirs,)):
            raise ShapeError(f"{len(self.labels)} labels for {n_dirs} directions", "give one label per direction")
        if not bool(torch.isfinite(rows).all()):
            raise NonFiniteError("a direction holds NaN or infinity", "look at what it was computed from")
        norms = rows.norm(dim=1)
        off = ((norms - 1).abs() > 1e-3) & (norms != 0)
        if bool(off.any()):
            i = int(off.nonzero()[0])
            raise DataError(
                f"direction {self.labels[i]!r} has norm {float(norms[i]):.4g}, not 1",
                "mechsteer.bases.from_directions normalises",
            )
        object.__setattr__(self, "is_orthonormal", _is_orthonormal(rows))

    def __len__(self) -> int:
        return len(self.directions)

    def __repr__(self) -> str:
        kind = "orthonormal" if self.is_orthonormal else "not orthonormal"
        ends = self.labels if len(self) < 4 else (self.labels[0], "...", self.labels[-1])
        return f"Basis({self.source.get('kind', 'directions')}, {len(self)} of length {self.d_model}, {kind}: {', '.join(ends)})"

    @property
    def d_model(self) -> int:
        """Length of the directions."""
        return self.directions.shape[1]

    def select(self, indices: Sequence[int] | Tensor) -> Basis:
        """The basis of these directions alone, in this order."""
        index = torch.as_tensor(indices).long()
        return replace(
            self,
            directions=self.directions[index],
            labels=tuple(self.labels[i] for i in index.tolist()),
            values=None if self.values is None else self.values[index],
            blocks=(),
            sae=None,  # an encoder speaks about all its features at once
        )

    def split(self) -> dict[str, Basis]:
        """Name of a map and layer, such as "q.3" -> its own basis; one block "all" where the basis is no union."""
        if not self.blocks:
            return {"all": self}
        parts = {}
        for name, first, end in self.blocks:
            part = self.select(range(first, end))
            parts[name] = replace(part, blocks=((name, 0, end - first),))
        return parts

    def to_dict(self) -> dict[str, Any]:
        """Labels, size and provenance, without the tensors."""
        return plain(
            {
                "n_dirs": len(self),
                "d_model": self.d_model,
                "is_orthonormal": self.is_orthonormal,
                "labels": list(self.labels),
                "blocks": self.blocks,
                "source": self.source,
            }
        )


def _is_orthonormal(rows: Tensor) -> bool:
    if len(rows) > rows.shape[1]:
        return False
    gram = rows.double() @ rows.double().T
    return float((gram - torch.eye(len(rows), dtype=gram.dtype, device=gram.device)).abs().max()) < 1e-4


def from_sae(sae: Any, labels: Sequence[str] | None = None) -> Basis:
    """Decoder rows of an SAE as unit vectors; row i is feature i.

    `sae`: a sae_lens SAE, or what `train_sae` or `load_sae` returns. Labels default to "f0", "f1", ... Raises ConfigError for an SAE that normalises each activation on its own: its
    features are not in units of the activations.
    """
    sae = as_sae(sae)
    config = getattr(sae, "cfg", None)
    normalization = getattr(config, "normalize_activations", None)
    if normalization in ("layer_norm", "constant_norm_rescale"):
        raise ConfigError(
            f"the SAE rescales every activation on its own ({normalization})",
            "a delta has no fixed size in its units; use an SAE on raw activations",
        )
    rows = sae.W_dec.detach().to("cpu", torch.promote_types(sae.W_dec.dtype, torch.float32))
    norms = rows.norm(dim=1, keepdim=True)
    source = {
        "kind": "sae",
        "d_sae": len(rows),
        "n_zero_rows": int((norms == 0).sum()),
        "metadata": sae_metadata(sae),
    }
    directions = torch.where(norms > 0, rows / norms, 0)
    names = [f"f{i}" for i in range(len(rows))] if labels is None else labels
    return Basis(directions, tuple(names), source, sae=sae)


def as_basis(basis: Any) -> Basis:
    """A basis as it is, an SAE (see `as_sae`) as that of its decoder rows; raises ConfigError for anything else."""
    if isinstance(basis, Basis):
        return basis
    if isinstance(basis, Tensor) or not hasattr(getattr(basis, "sae", basis), "W_dec"):
        raise ConfigError(
            f"{type(basis).__name__} is no basis",
            "make one: mechsteer.bases.from_directions(directions), from_sae(sae), or singular(model)",
        )
    return from_sae(basis)


def from_directions(
    directions: Tensor | Mapping[str, Any] | Sequence[Any],
    labels: Sequence[str] | None = None,
    *,
    source: Mapping[str, Any] | None = None,
) -> Basis:
    """A basis of given directions, normalised: a tensor [n_dirs d_model], or Directions / vectors, or {label: one}.

    Labels default to the keys, or to "d0", "d1", ... Raises DataError for a zero vector, and what `Basis` raises.

    >>> from_directions(torch.eye(3)[:2] * 5, ["a", "b"]).is_orthonormal
    True
    """
    if isinstance(directions, Mapping):
        labels = list(directions) if labels is None else labels
        directions = list(directions.values())
    if not isinstance(directions, Tensor):
        vectors = [torch.as_tensor(getattr(d, "vector", d)).detach().cpu().reshape(-1) for d in directions]
        if len({len(v) for v in vectors}) != 1:
            raise ShapeError(f"the directions have lengths {[len(v) for v in vectors]}", "give vectors [d_model]")
        directions = torch.stack(vectors)
    if directions.ndim != 2 or not directions.is_floating_point():
        raise ShapeError(f"directions are {list(directions.shape)}, {directions.dtype}", "give floats [n_dirs d_model]")
    norms = directions.norm(dim=1, keepdim=True)
    if bool((norms == 0).any()):
        raise DataError(f"direction {int((norms[:, 0] == 0).nonzero()[0])} is zero", "leave it out")
    names = [f"d{i}" for i in range(len(directions))] if labels is None else labels
    return Basis((directions / norms).detach(), tuple(names), dict(source or {"kind": "directions"}))
