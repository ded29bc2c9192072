"""Maps between sites: which map an adapter stands at that reads its input and writes its output, and its weight.

y = W x: whoever reads x and writes y changes W, if the delta is linear in x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mechsteer.errors import ConfigError, ModelMismatchError
from mechsteer.models.dispatch import backend_of
from mechsteer.models.fingerprint import map_fingerprint
from mechsteer.models.sites import Site

# point -> the map that writes it; resid_pre of layer L is resid_post of layer L - 1
WRITTEN_BY = {
    **{"resid_post": "down", "mlp_out": "down", "down_out": "down"},
    **{"attn_out": "o", "o_out": "o"},
    **{f"{m}_out": m for m in ("q", "k", "v", "gate", "up")},
    **{m: m for m in ("q", "k", "v")},
}
_READS = {  # map -> the points that are its input
    **{m: (f"{m}_in",) for m in ("q", "k", "v", "gate", "up")},
    **{"o": ("o_in", "z"), "down": ("down_in", "mlp_post")},
}
MapName = tuple[int, str]  # layer and name


@dataclass(frozen=True, kw_only=True, eq=False)
class MapWeight:
    """A map of one model: what an adapter is made of that lives in its singular basis."""

    weight: Tensor
    """W [d_out d_in], so that y = W x; heads are flattened"""
    fingerprint: str
    """see `mechsteer.models.fingerprint.map_fingerprint`"""
    processing: dict[str, Any]
    """the model's class, and flags that say how W differs from the checkpoint's"""


def map_writing(site: Site) -> MapName | None:
    """The map that writes a site of a model (layers as indices); None where none does."""
    assert isinstance(site.layer, int)
    if site.point == "resid_pre" and site.layer > 0:
        return site.layer - 1, "down"
    return (site.layer, WRITTEN_BY[site.point]) if site.point in WRITTEN_BY else None


def map_between(reads: Sequence[Site], write: Site) -> MapName | None:
    """The map whose input is the only one of `reads` and whose output is `write`; None where there is none such."""
    target = map_writing(write)
    if target is None or len(reads) != 1:
        return None
    layer, name = target
    return target if reads[0].layer == layer and reads[0].point in _READS[name] else None


def map_at(model: Any, reads: Sequence[Site], write: Site) -> MapWeight:
    """The weight of that map. Raises ConfigError where the sites are not those of one map."""
    target = map_between(reads, write)
    if target is None:
        raise ConfigError(
            f"{'+'.join(map(str, reads))} and {write} are not the input and the output of one map",
            "read the input of a map and write its output: q_in and q_out, o_in and o_out, down_in and down_out",
        )
    backend = backend_of(model)
    return MapWeight(
        weight=backend.weights.map_weight(*target).detach(),
        fingerprint=map_fingerprint(model, *target),
        processing={"backend": backend.kind, **backend.weights.processing()},
    )


def require_map(model: Any, reads: Sequence[Site], write: Site, fingerprint: str, what: str) -> None:
    """Raise unless `what` stands at the map that it was made of: ConfigError for other sites, ModelMismatchError."""
    found = map_at(model, reads, write)
    if found.fingerprint != fingerprint:
        raise ModelMismatchError(
            f"{what} at {write} was made of another weight: {fingerprint}, this one has {found.fingerprint}",
            "use the model it was made for, processed alike (compatibility mode has other weights), with nothing folded in",
        )
