"""Steerings to begin with: a paper's method that is composed of adapters, an untrained adapter by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mechsteer.adapters import Prototypes, Static, named
from mechsteer.adapters.prototypes import Weights
from mechsteer.directions import cluster_differences, pooled_pairs, seal_direction, separator_ids, step_kind
from mechsteer.directions.steps import BLANK_LINE, StepKind
from mechsteer.errors import ConfigError
from mechsteer.models import backend_of
from mechsteer.models.maps import map_at
from mechsteer.models.sites import Site, SiteLike, Sites, as_site, as_sites
from mechsteer.prompts import ContrastivePairs
from mechsteer.results import Result
from mechsteer.runtime.scope_words import ScopeLike
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.interventions import Intervention, Steering
from mechsteer.tasks import Trace

RivalKind = Literal["loreft", "clas", "bias_only"]


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
    if cls.of_map:
        options = {"of": map_at(model, located.reads, located.site), **options}
    widths = tuple(width(model, each) for each in located.reads)
    adapter = cls.fresh(widths[0] if located.reads_one else widths, width(model, located.site), **options)
    return Intervention(adapter.to(backend_of(model).device_at(located.site.layer)), site, **place)


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


def seal(
    model: Any,
    traces: Sequence[Trace],
    site: SiteLike,
    *,
    separator: str = BLANK_LINE,
    kind_of: Callable[[str], StepKind] = step_kind,
    coeff: float = 1.0,
    batch_size: int = 16,
) -> Intervention:
    """SEAL (arXiv 2504.07986): execution less reflection and transition, added at the separators the model writes.

    Nothing is trained: see `mechsteer.directions.steps` for how steps are found and named. The scope is every generated
    token that holds the separator, which is where a next step begins; the paper's coefficient is 1. Raises as
    `mechsteer.directions.seal_direction`.
    """
    direction = seal_direction(model, traces, site, separator=separator, kind_of=kind_of, batch_size=batch_size)
    scope = TokenScope.generated() & TokenScope.token_ids(separator_ids(model, separator))
    return Intervention(Static(direction), site, scope=scope, coeff=coeff)


def prototype_steering(
    model: Any,
    pairs: ContrastivePairs | Sequence[tuple[str, str]],
    site: SiteLike,
    n_prototypes: int = 8,
    *,
    weights: Weights = "projection",
    scope: ScopeLike | None = None,
    coeff: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
) -> Intervention:
    """PDS (arXiv 2510.05498): k-means prototypes of (chain-of-thought prompt, neutral prompt) pairs at their last tokens.

    Nothing is trained: see `mechsteer.adapters.prototypes`, also for what of the paper has not been verified. `scope` is
    by default the last prompt token and all that is generated, ours too. Raises as `cluster_differences` and `capture`.
    """
    pos, neg = pooled_pairs(model, pairs, site, batch_size=batch_size)
    adapter = Prototypes(cluster_differences(pos, neg, n_prototypes, seed=seed), weights=weights)
    scope = TokenScope.generated(include_last_prompt=True) if scope is None else scope
    device = backend_of(model).device_at(as_site(site).at(model).layer)
    return Intervention(adapter.to(device), site, scope=scope, coeff=coeff)


@dataclass(frozen=True, kw_only=True)
class Sized(Result):
    """How large a rival is to be: what it trains, and how many numbers that are."""

    kind: str
    n_parameters: int
    rank: int | None
    """of loreft, at one site; None for others"""
    n_layers: int
    """how many sites it stands at"""


def at_parameters(kind: RivalKind, n_parameters: int, d_model: int) -> Sized:
    """The size of "loreft", "clas" or "bias_only" whose parameter count is nearest to `n_parameters`, never nothing.

    loreft at one site has 2 · d_model · rank + rank parameters; of clas (d_model + 1 per site) and bias_only (d_model)
    there are several sites. Of two that are as near the smaller. Raises ConfigError for another kind or count.
    """
    unit = {"loreft": 2 * d_model + 1, "clas": d_model + 1, "bias_only": d_model}.get(kind)
    if unit is None or d_model < 1:
        raise ConfigError(f"no size for {kind!r} of width {d_model}", "kinds are loreft, clas and bias_only")
    if n_parameters < 1:
        raise ConfigError(f"n_parameters is {n_parameters}", "give the count of what it is compared with")
    n = max(1, -(-(2 * n_parameters - unit) // (2 * unit)))
    if kind == "loreft":
        rank = min(n, d_model)
        return Sized(kind=kind, n_parameters=rank * unit, rank=rank, n_layers=1)
    return Sized(kind=kind, n_parameters=n * unit, rank=None, n_layers=n)
