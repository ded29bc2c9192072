"""Singular directions of the weights: of what a map reads, and of what it writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mechsteer.bases.basis import Basis
from mechsteer.errors import ConfigError, UnknownSiteError
from mechsteer.models import MAPS, backend_of, model_fingerprint
from mechsteer.models.sites import Site, SiteLike, as_site

READING_MAPS = ("q", "k", "v", "gate", "up")
WRITING_MAPS = ("o", "down")


def singular(
    model: Any,
    maps: Sequence[str] | str = READING_MAPS,
    layers: Sequence[int | float] | int | None = None,
    side: Literal["right", "left"] = "right",
    *,
    site: SiteLike | None = None,
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
    maps = (maps,) if isinstance(maps, str) else maps
    allowed = {"right": READING_MAPS, "left": WRITING_MAPS}
    if side not in allowed or not maps or any(m not in allowed[side] for m in maps):
        raise ConfigError(
            f"maps {list(maps)} on side {side!r}",
            f"side 'right' takes {READING_MAPS}, side 'left' takes {WRITING_MAPS}; the maps are {MAPS}",
        )
    site = None if site is None else as_site(site).at(model)
    backend, blocks, rows, values, scaled = backend_of(model), [], [], [], []
    for layer in _layers(model, layers):
        for name in maps:
            if site is not None and not _meets(site, layer, name, side):
                continue
            try:
                weight = backend.weights.map_weight(layer, name)
            except UnknownSiteError:
                if name == "gate" and tuple(maps) == READING_MAPS:
                    continue
                raise
            scale = backend.weights.norm_scale(layer, name) if side == "right" else None
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
        "site": None if site is None else str(site),
        "k": k,
        "norm_scale": _NORM_SCALE[side, all(scaled)],
        "normalization": str(backend.cfg.normalization_type) if side == "right" else None,
        "model_fingerprint": model_fingerprint(model),
    }
    labels = [f"{name}.sv{i}" for name, first, end in blocks for i in range(end - first)]
    norm = backend.weights.normalize if side == "right" else None
    return Basis(torch.cat(rows), tuple(labels), source, torch.cat(values), tuple(blocks), norm=norm)


_NORM_SCALE = {
    ("right", True): "multiplied into W",
    ("right", False): "in W already",
    ("left", False): "none: no norm lies between the map and the residual stream",
}


def _layers(model: Any, layers: Sequence[int | float] | int | None) -> Iterator[int]:
    wanted = range(model.cfg.n_layers) if layers is None else [layers] if isinstance(layers, (int, float)) else layers
    for layer in wanted:
        yield int(as_site(layer).at(model).layer)


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
