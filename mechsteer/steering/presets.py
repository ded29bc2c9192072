"""A paper's method as a Steering: what is composed of adapters rather than one of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mechsteer.adapters import Static
from mechsteer.models.sites import Site
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.interventions import Intervention, Steering


def bias_only(
    model: Any,
    layers: Sequence[int | float] | None = None,
    *,
    point: str = "resid_post",
    scope: TokenScope | None = None,
) -> Steering:
    """One vector per layer (default: all), starting at zero, to be trained (arXiv 2505.18706).

    The static baseline that any claim of a dynamic method must beat. Identity until trained.
    """
    layers = range(model.cfg.n_layers) if layers is None else layers
    sites = [Site(layer, point).at(model) for layer in layers]
    return Steering([Intervention(Static(torch.zeros(model.cfg.d_model)), site, scope=scope) for site in sites])
