"""Steerings to begin with: a paper's method that is composed of adapters, an untrained adapter by its name."""

from __future__ import annotations

from typing import Any

import torch

from mechsteer.adapters import Static, named
from mechsteer.models import backend_of
from mechsteer.models.sites import Site, SiteLike, Sites, as_site, as_sites
from mechsteer.runtime.scope_words import ScopeLike
from mechsteer.steering.interventions import Intervention, Steering


def bias_only(
    model: Any,
    layers: Sites | None = None,
    *,
    point: str = "resid_post",
    scope: ScopeLike | None = None,
) -> Steering:
    """One vector per layer (default: all), starting at zero, to be trained (arXiv 2505.18706).

    The static baseline that any claim of a dynamic method must beat. Identity until trained. `layers` are indices or
    depth ratios, at `point`; a hook name says its own.
    """
    given = as_sites(range(model.cfg.n_layers) if layers is None else layers)
    sites = [(Site(site.layer, point) if site.point == "resid_post" else site).at(model) for site in given]
    return Steering([Intervention(Static(torch.zeros(model.cfg.d_model)), site, scope=scope) for site in sites])


def untrained(
    model: Any,
    kind: str,
    site: SiteLike,
    *,
    read: Sites | None = None,
    scope: ScopeLike | None = None,
    **options: Any,
) -> Intervention:
    """An untrained adapter registered as `kind`, sized for what it reads and writes in this model.

    `options` go to the adapter's `fresh`. Raises ConfigError for an unknown kind, or one that has no `fresh`.
    """
    cls, place = named(kind), {"read": read, "scope": scope}
    located = Intervention(Static(torch.zeros(1)), site, **place).at(model)  # checks the sites
    widths = tuple(width(model, each) for each in located.reads)
    adapter = cls.fresh(widths[0] if located.reads_one else widths, width(model, located.site), **options)
    return Intervention(adapter.to(backend_of(model).device), site, **place)


def width(model: Any, site: SiteLike) -> int:
    """How many numbers a token has at a site; heads count together."""
    site, weights = as_site(site).at(model), backend_of(model).weights
    assert isinstance(site.layer, int)
    name, _, end = {"z": "o_in", "mlp_post": "down_in", "q": "q_out", "k": "k_out", "v": "v_out"}.get(
        site.point, site.point
    ).partition("_")
    if end not in ("in", "out") or name in ("attn", "mlp"):
        return model.cfg.d_model
    return weights.map_weight(site.layer, name).shape[1 if end == "in" else 0]
