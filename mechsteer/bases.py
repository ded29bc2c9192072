"""Basis: labelled unit directions that a steering delta is expressed in, and where they come from.

    from_sae(sae)         rows of an SAE's decoder
    singular(model, ...)  singular vectors of the maps that read a site (W·diag(norm scale) = U S Vᵀ, directions V)
                          or that write it (W = U S Vᵀ, directions U)
    from_directions(...)  anything else

Every map of a model has a basis of its own. `singular` over several maps is their union, which is overcomplete;
`Basis.split` gives the orthonormal ones back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError, UnknownSiteError
from mechsteer.models import MAPS, backend_of, model_fingerprint
from mechsteer.results import plain
from mechsteer.shapes import Directions
from mechsteer.sites import Site
from mechsteer.tokens import token_text

READING_MAPS = ("q", "k", "v", "gate", "up")
WRITING_MAPS = ("o", "down")


@dataclass(frozen=True, eq=False)
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

    `sae`: anything with `W_dec` [d_sae d_in] and `encode` (a sae_lens SAE), or what `train_sae` returns. Labels
    default to "f0", "f1", ... Raises ConfigError for an SAE that normalises each activation on its own: its
    features are not in units of the activations.
    """
    sae = getattr(sae, "sae", sae)
    config = getattr(sae, "cfg", None)
    normalization = getattr(config, "normalize_activations", None)
    if normalization in ("layer_norm", "constant_norm_rescale"):
        raise ConfigError(
            f"the SAE rescales every activation on its own ({normalization})",
            "a delta has no fixed size in its units; use an SAE on raw activations",
        )
    rows = sae.W_dec.detach().to("cpu", torch.promote_types(sae.W_dec.dtype, torch.float32))
    norms = rows.norm(dim=1, keepdim=True)
    metadata: Any = getattr(config, "metadata", None)
    metadata = metadata.to_dict() if hasattr(metadata, "to_dict") else metadata
    source = {
        "kind": "sae",
        "d_sae": len(rows),
        "n_zero_rows": int((norms == 0).sum()),
        "metadata": dict(metadata) if isinstance(metadata, Mapping) else {},
    }
    directions = torch.where(norms > 0, rows / norms, 0)
    names = [f"f{i}" for i in range(len(rows))] if labels is None else labels
    return Basis(directions, tuple(names), source, sae=sae)


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


def singular(
    model: Any,
    maps: Sequence[str] = READING_MAPS,
    layers: Sequence[int | float] | int | None = None,
    side: Literal["right", "left"] = "right",
    *,
    site: Site | None = None,
    k: int | None = None,
) -> Basis:
    """Singular directions of the weights, labelled like "q.3.sv12" (map, layer, rank), with singular values.

    `side="right"`: what maps read. For W [d_out d_model] of q, k, v, gate or up it is the SVD of W·diag(norm scale),
    so directions live where the norm without its scale puts its output; `Basis.norm` is that norm. For a LayerNorm
    model the centring is in the norm, not folded into W: what meets the directions has mean zero already.
    `side="left"`: what o and down write, in the residual stream itself.

    `layers`: indices or depth ratios (default: all); `site` leaves the layers whose maps read it downstream
    (right) or write into it upstream (left); `k` keeps the leading directions of each map. The SVD is float32
    (float64 for a float64 model). A model without a gated MLP has no "gate"; the default maps then leave it out.

    Raises ConfigError (unknown maps, a map on the wrong side, nothing left), UnknownSiteError.
    """
    allowed = {"right": READING_MAPS, "left": WRITING_MAPS}
    if side not in allowed or not maps or any(m not in allowed[side] for m in maps):
        raise ConfigError(
            f"maps {list(maps)} on side {side!r}",
            f"side 'right' takes {READING_MAPS}, side 'left' takes {WRITING_MAPS}; the maps are {MAPS}",
        )
    backend, blocks, rows, values, scaled = backend_of(model), [], [], [], []
    for layer in _layers(model, layers):
        for name in maps:
            if site is not None and not _meets(site.at(model), layer, name, side):
                continue
            try:
                weight = backend.map_weight(layer, name)
            except UnknownSiteError:
                if name == "gate" and tuple(maps) == READING_MAPS:
                    continue
                raise
            scale = backend.norm_scale(layer, name) if side == "right" else None
            scaled.append(scale is not None)
            vectors, sizes = _svd(weight if scale is None else weight * scale, side, k)
            blocks.append((f"{name}.{layer}", sum(map(len, rows)), sum(map(len, rows)) + len(vectors)))
            rows.append(vectors)
            values.append(sizes)
    if not rows:
        raise ConfigError(f"no map of {list(maps)} {'reads' if side == 'right' else 'writes'} {site}", "choose others")
    source = {
        "kind": "singular",
        "side": side,
        "maps": list(maps),
        "site": None if site is None else str(site.at(model)),
        "k": k,
        "norm_scale": _NORM_SCALE[side, all(scaled)],
        "normalization": str(backend.cfg.normalization_type) if side == "right" else None,
        "model_fingerprint": model_fingerprint(model),
    }
    labels = [f"{name}.sv{i}" for name, first, end in blocks for i in range(end - first)]
    norm = backend.normalize if side == "right" else None
    return Basis(torch.cat(rows), tuple(labels), source, torch.cat(values), tuple(blocks), norm=norm)


_NORM_SCALE = {
    ("right", True): "multiplied into W",
    ("right", False): "in W already",
    ("left", False): "none: no norm lies between the map and the residual stream",
}


def _layers(model: Any, layers: Sequence[int | float] | int | None) -> Iterator[int]:
    wanted = range(model.cfg.n_layers) if layers is None else [layers] if isinstance(layers, (int, float)) else layers
    for layer in wanted:
        yield int(Site(layer).at(model).layer)


def _meets(site: Site, layer: int, name: str, side: str) -> bool:
    if side == "right":
        return Site(layer, f"{name}_in").order > site.order
    return Site(layer, f"{name}_out").order <= site.order


def _svd(weight: Tensor, side: str, k: int | None) -> tuple[Tensor, Tensor]:
    """(directions [n d_model], singular values [n]) of W = U @ diag(S) @ Vh, U [d_out n], Vh [n d_in]."""
    wide = weight.detach().to("cpu", torch.promote_types(weight.dtype, torch.float32))
    u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    rows = vh if side == "right" else u.T
    return rows[:k].contiguous(), s[:k]


@torch.no_grad()
def top_tokens(model: Any, basis: Basis, k: int = 10, *, chunk: int = 1024) -> pd.DataFrame:
    """What each direction writes through the unembedding: columns label, promoted, suppressed (lists of k tokens).

    A direction alone goes through the real final norm and the unembedding, less what a zero residual gives: for
    every token this is the direction's linear effect on its logit, up to one positive factor. Right singular
    vectors are read in the normalised stream, whose axes are the residual stream's.
    Raises ShapeError for directions that are not of the residual stream.
    """
    backend = backend_of(model)
    if basis.d_model != backend.cfg.d_model:
        raise ShapeError(
            f"directions of length {basis.d_model} in a model with d_model {backend.cfg.d_model}",
            "only directions of the residual stream can be unembedded",
        )
    zero = backend.unembed(torch.zeros(1, basis.d_model, dtype=backend.dtype, device=backend.device))
    records = []
    for start in range(0, len(basis), chunk):
        part = basis.directions[start : start + chunk].to(backend.device, backend.dtype)
        logits = backend.unembed(part) - zero
        sides = [(sign * logits).topk(min(k, logits.shape[1]), dim=1).indices.tolist() for sign in (1, -1)]
        for label, high, low in zip(basis.labels[start : start + chunk], *sides, strict=True):
            records.append((label, [_token(model, i) for i in high], [_token(model, i) for i in low]))
    return pd.DataFrame(records, columns=["label", "promoted", "suppressed"])


def _token(model: Any, token_id: int) -> str:
    tokenizer = model.tokenizer
    return str(token_id) if tokenizer is None else token_text(tokenizer, token_id)


__all__ = [
    "Basis",
    "READING_MAPS",
    "WRITING_MAPS",
    "from_directions",
    "from_sae",
    "singular",
    "top_tokens",
]
