"""Site: a layer and a point in it, resolved against a model before anything runs."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mechsteer.errors import UnknownSiteError, closest
from mechsteer.models import MAPS, POINTS, backend_of
from mechsteer.models.hook_names import point_of

# Order of the points within one forward of a block; reading may not come after writing.
_STEPS = (
    ("resid_pre",),
    ("q_in", "k_in", "v_in"),
    ("q", "k", "v", "q_out", "k_out", "v_out"),
    ("z", "o_in"),
    ("o_out",),
    ("attn_out",),
    ("resid_mid",),
    ("gate_in", "up_in"),
    ("gate_out", "up_out"),
    ("mlp_post", "down_in"),
    ("down_out",),
    ("mlp_out",),
    ("resid_post",),
)
_ORDER = {point: step for step, points in enumerate(_STEPS) for point in points}


@dataclass(frozen=True)
class Site:
    """A layer (an int, or a float depth ratio: floor(ratio · n_layers), 0.15 of 28 layers is 4) and a point.

    Points: resid_pre resid_mid resid_post attn_out mlp_out mlp_post z q k v, and for each of the maps
    q k v o gate up down its input and output, such as gate_in, gate_out.

    >>> Site(4, "resid_post")
    Site(layer=4, point='resid_post')
    """

    layer: int | float
    point: str = "resid_post"

    def __post_init__(self) -> None:
        if self.point not in POINTS:
            near = closest(self.point, POINTS)
            raise UnknownSiteError(
                f"no point {self.point!r}",
                f"closest points are {near}" if near else f"points are {list(POINTS)}",
            )
        if isinstance(self.layer, bool) or not isinstance(self.layer, (int, float)):
            raise UnknownSiteError(
                f"layer {self.layer!r} is neither an int nor a float",
                "a layer is an index, or a depth ratio such as 0.5",
            )
        if isinstance(self.layer, float) and not 0 <= self.layer < 1:
            raise UnknownSiteError(f"depth ratio {self.layer} is not in [0, 1)", "give an int for a layer index")

    def at(self, model: Any) -> Site:
        """The same site with its layer as an index of this model; raises UnknownSiteError if there is no such layer."""
        return self.among(model.cfg.n_layers)

    def among(self, n_layers: int) -> Site:
        """The same site with its layer as an index of a model with so many layers; raises as `at`."""
        # 0.29 · 100 is 28.999...: the ratio a user wrote decides, not its rounding
        layer = math.floor(self.layer * n_layers + 1e-9) if isinstance(self.layer, float) else self.layer
        if not 0 <= layer < n_layers:
            raise UnknownSiteError(
                f"no layer {layer} in a model with {n_layers} layers", f"layers are 0 to {n_layers - 1}"
            )
        return Site(layer, self.point)

    def resolve(self, model: Any, *, write: bool = False) -> str:
        """Hook name in this model, whichever class it has.

        Raises UnknownSiteError where there is none, or with `write` where it can be read but not written.
        """
        site = self.at(model)
        assert isinstance(site.layer, int)
        return backend_of(model).names.hook_name(site.layer, site.point, write=write)

    @property
    def order(self) -> tuple[float, int]:
        """Sorts sites of one model by when the forward reaches them."""
        return (self.layer, _ORDER[self.point])

    def to_dict(self) -> dict:
        """JSON form."""
        return {"layer": self.layer, "point": self.point}

    @classmethod
    def from_dict(cls, data: Mapping) -> Site:
        """Inverse of `to_dict`."""
        return cls(data["layer"], data["point"])

    def __str__(self) -> str:
        return f"{self.point}@{self.layer}"


SiteLike = Site | int | float | str
Sites = SiteLike | Iterable[SiteLike]


def as_site(site: SiteLike) -> Site:
    """One site of what names one; every public entry that takes a site asks here.

    A Site; a layer, of which resid_post is meant (an index, or a depth ratio such as 0.5); a hook name
    ("blocks.3.hook_resid_post"); or a site as it prints ("resid_post@3"). Raises UnknownSiteError for anything else.

    >>> as_site(3), as_site("blocks.3.attn.hook_z"), as_site("mlp_out@0.5")
    (Site(layer=3, point='resid_post'), Site(layer=3, point='z'), Site(layer=0.5, point='mlp_out'))
    """
    if isinstance(site, Site):
        return site
    if isinstance(site, str):
        return Site(*_named(site))
    if isinstance(site, numbers.Real) and not isinstance(site, bool):
        return Site(int(site) if isinstance(site, numbers.Integral) else float(site))
    if isinstance(site, Mapping) or (isinstance(site, Iterable) and not isinstance(site, bytes)):
        raise UnknownSiteError(
            f"{site!r:.80} is not one site", "pass a single one here, such as 3 or Site(3, 'mlp_out')"
        )
    raise UnknownSiteError(
        f"{site!r:.80} is no site",
        "pass mechsteer.Site(layer, point), a layer such as 3, or a hook name such as 'blocks.3.hook_resid_post'",
    )


def as_sites(sites: Sites) -> tuple[Site, ...]:
    """Sites of what names some; one alone is a tuple of one. Raises as `as_site`.

    >>> as_sites([0, "mlp_out@2"]) + as_sites(1)
    (Site(layer=0, point='resid_post'), Site(layer=2, point='mlp_out'), Site(layer=1, point='resid_post'))
    """
    given: Any = sites
    is_one = isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable)
    listed: list[Any] = [sites] if is_one else list(given)
    return tuple(as_site(site) for site in listed)


def _named(name: str) -> tuple[int | float, str]:
    """(layer, point) of a hook's name, or of a site as it prints."""
    point, at, layer = name.strip().partition("@")
    if not at:
        return point_of(name.strip())
    try:
        return (float(layer) if "." in layer else int(layer)), point
    except ValueError:
        raise UnknownSiteError(f"{name!r} has no layer", "a site reads like resid_post@3, or mlp_out@0.5") from None


def list_sites(model: Any) -> list[Site]:
    """Every site this model has, in the order of the forward."""
    found = []
    for layer in range(model.cfg.n_layers):
        for point in POINTS:
            site = Site(layer, point)
            try:
                site.resolve(model)
            except UnknownSiteError:
                continue
            found.append(site)
    return sorted(found, key=lambda s: s.order)


__all__ = ["MAPS", "POINTS", "Site", "SiteLike", "Sites", "as_site", "as_sites", "list_sites"]
