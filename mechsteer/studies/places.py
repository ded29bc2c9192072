"""Where an adapter may sit: `adapter.sites` at each of `layers` (or of a depth sweep), as interventions of an untrained adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mechsteer.adapters import named, named_observer
from mechsteer.configs.schema import AdapterSettings, Settings
from mechsteer.errors import ConfigError
from mechsteer.models.sites import Site, list_sites
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering import adapter_layers, loss_layer, presets
from mechsteer.steering.interventions import Interventions, Observation, Steering, writing

DEFAULT_SITES = AdapterSettings().sites
BIAS_ONLY = "bias_only"  # a vector behind every block: a place, not a class of adapters


@dataclass(frozen=True, kw_only=True)
class Place:
    """Sites that are steered at once: per adapter what it reads and what it writes."""

    sites: tuple[tuple[tuple[Site, ...], Site], ...]

    def __str__(self) -> str:
        return "+".join(dict.fromkeys(str(write) for _, write in self.sites))

    @property
    def measured(self) -> Site:
        """The residual stream behind the last block that is written to."""
        return behind([write for _, write in self.sites])


def untrained(
    place: Place, model: Any, kind: str, options: dict[str, Any], scope: TokenScope, *, seed: int
) -> Steering:
    """An untrained adapter of a registered kind at each site of a place; what it draws for its start is the seed's."""
    name, interventions = "static" if kind == BIAS_ONLY else kind, []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for read, write in place.sites:
            apart = None if read == (write,) else read[0] if len(read) == 1 else read
            interventions.append(presets.untrained(model, name, write, read=apart, scope=scope, **options))
    return Steering(interventions)


def places(model: Any, kind: str, entries: Sequence[str], layers: Sequence[float]) -> list[Place]:
    """The candidates, each once. Entries without a layer stand at each of `layers`; those with one at it.

    Raises ConfigError for what is no site, UnknownSiteError for a site that the model does not have.
    """
    if kind == BIAS_ONLY:
        every = [Site(layer, "resid_post") for layer in range(model.cfg.n_layers)]
        return [Place(sites=tuple(((site,), site) for site in every))]
    if list(entries) == DEFAULT_SITES and (points := named(kind).default_sites):
        return [_over_maps(model, points)]
    movable = any("@" not in entry for entry in entries)
    found = [
        Place(sites=tuple(_parsed(model, entry, layer) for entry in entries))
        for layer in (layers if movable else layers[:1])
    ]
    return list(dict.fromkeys(found))


def _over_maps(model: Any, points: Sequence[str]) -> Place:
    """Every one of the maps in every layer below the one where a contrastive loss is measured."""
    layers = adapter_layers(model.cfg.n_layers, [loss_layer(model.cfg.n_layers)])
    known = set(list_sites(model))
    found = [_parsed(model, point, layer) for layer in layers for point in points]
    return Place(sites=tuple(place for place in found if known.issuperset((*place[0], place[1]))))


def layers_tried(model: Any, settings: Settings) -> list[int | float]:
    """Where the adapter may sit: `layers`; with `adapter.depth_sweep` every layer from ceil(L / 4) to floor(3 L / 4).

    A model of one layer has none of these: then the middle.
    """
    if not settings.adapter.depth_sweep:
        return settings.layers
    n_layers = model.cfg.n_layers
    return list(range(math.ceil(n_layers / 4), math.floor(3 * n_layers / 4) + 1)) or [0.5]


def behind(sites: Sequence[Site]) -> Site:
    """The residual stream behind the last of the blocks that the sites are in."""
    return Site(max(int(site.layer) for site in sites), "resid_post")


def measured(model: Any, steering: Interventions) -> Site:
    """`Place.measured` of a steering that is there already. Raises ConfigError for one that only observes."""
    sites = [iv.site.at(model) for iv in writing(steering)]
    if not sites:
        raise ConfigError("the steering holds no intervention", "give one that writes: there is nothing to study")
    return behind(sites)


def _parsed(model: Any, entry: str, layer: float) -> tuple[tuple[Site, ...], Site]:
    read, colon, write = entry.partition(":")
    sites = [_site(model, text, entry, layer) for text in read.split("+")]
    if not colon and len(sites) > 1:
        raise ConfigError(f"adapter.sites holds {entry!r}", "say what is written: q_in+mlp_out:resid_post")
    return tuple(sites), _site(model, write, entry, layer) if colon else sites[0]


def _site(model: Any, text: str, entry: str, layer: float, *, key: str = "adapter.sites") -> Site:
    point, at, number = text.strip().partition("@")
    if at:
        try:
            layer = float(number) if "." in number else int(number)
        except ValueError as error:
            raise ConfigError(f"{key} holds {entry!r}", "a layer is a number, such as 3 or 0.5") from error
    return Site(layer, point).at(model)


def observations(model: Any, entries: Sequence[str]) -> list[Observation]:
    """Registered observers where `observers` puts them. Raises ConfigError and UnknownSiteError for mistakes."""
    made = []
    for entry in entries:
        name, at, place = entry.partition("@")
        layer, _, point = place.partition(":")
        if not at or not layer:
            raise ConfigError(f"observers holds {entry!r}", "write name@layer, such as drift@3, or drift@3:mlp_out")
        observer = named_observer(name).blank({})
        made.append(Observation(observer, _site(model, f"{point or 'resid_post'}@{layer}", entry, 0, key="observers")))
    return made
