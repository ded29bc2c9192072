"""Singular adapters for a model: which maps, in which layers, as one Steering.

Adapter layers are evenly spaced from floor(0.3 N) to the layer below the first loss layer of N, the loss layer is
max(1, N − 3): what suppresses a behaviour comes after it (see `mechsteer.training.objectives.separation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mechsteer.errors import ConfigError, UnknownSiteError
from mechsteer.models import MAPS, backend_of
from mechsteer.models.sites import Site
from mechsteer.runtime.scope_words import ScopeLike
from mechsteer.steering.interventions import Intervention, Steering
from mechsteer.steering.presets import untrained

DEFAULT_MAPS = ("q", "k", "v", "gate", "up")
FIRST = 0.3  # of the depth: the first adapter layer


def loss_layer(n_layers: int) -> int:
    """Where a contrastive loss is measured, if not told: max(1, N − 3), or the only layer.

    >>> [loss_layer(n) for n in (1, 3, 6, 28)]
    [0, 1, 3, 25]
    """
    return min(max(1, n_layers - 3), n_layers - 1)


def adapter_layers(n_layers: int, loss_layers: Sequence[int], n: int | None = None) -> list[int]:
    """`n` layers (None: all) evenly spaced from floor(0.3 N) to the one below the first loss layer, at least one.

    Raises ConfigError where no layer is left below the first loss layer.

    >>> adapter_layers(28, [25], 5), adapter_layers(6, [3]), adapter_layers(3, [1])
    ([8, 12, 16, 20, 24], [1, 2], [0])
    """
    last = min(loss_layers) - 1
    if last < 0:
        raise ConfigError(f"the loss is measured at layer {min(loss_layers)}: none is below it", "measure it later")
    first = min(int(FIRST * n_layers), last)
    every = list(range(first, last + 1))
    if n is None or n >= len(every):
        return every
    if n < 1:
        raise ConfigError(f"{n} layers", "give at least one")
    if n == 1:
        return [first]
    return [first + round(i * (last - first) / (n - 1)) for i in range(n)]


def singular_steering(
    model: Any,
    maps: Sequence[str] = DEFAULT_MAPS,
    layers: Sequence[int | float] | None = None,
    *,
    rank: int = 24,
    loss_layers: Sequence[int] | None = None,
    n_layers: int | None = None,
    scope: ScopeLike | None = None,
    coeff: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> Steering:
    """An untrained `Singular` at each of `maps` (of q k v o gate up down) in each layer.

    Default layers: `n_layers` of `adapter_layers` (None: all of them) below the first of `loss_layers` (default:
    `loss_layer`), those that the objective is given.
    A model without a gated MLP has no "gate": the default maps then leave it out. A rank above a map's smaller side is
    that side. `options` are the adapter's: mode, rotate_u, rotate_v, block_size, theta_max, init, triples, randomised,
    cache. What `init` draws is the seed's. Raises ConfigError, UnknownSiteError for a map or layer that is not there.
    """
    if layers is None:
        n = model.cfg.n_layers
        layers = adapter_layers(n, [loss_layer(n)] if loss_layers is None else loss_layers, n_layers)
    elif loss_layers is not None or n_layers is not None:
        raise ConfigError("layers are given, and what they would follow from", "leave out loss_layers and n_layers")
    if unknown := [name for name in maps if name not in MAPS]:
        raise ConfigError(f"no maps {unknown}", f"maps are {list(MAPS)}")
    found: list[Intervention] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers:
            for name in maps:
                read, write = Site(layer, f"{name}_in"), Site(layer, f"{name}_out")
                if name == "gate" and tuple(maps) == DEFAULT_MAPS and not _has_gate(model, write):
                    continue
                at = write.at(model)
                assert isinstance(at.layer, int)
                limit = min(backend_of(model).weights.map_weight(at.layer, name).shape)
                iv = untrained(model, "singular", at, read=read, scope=scope, rank=min(rank, limit), **options)
                found.append(iv.with_coeff(coeff))
    if not found:
        raise ConfigError("no map is left", "name maps and layers that the model has")
    return Steering(found)


def _has_gate(model: Any, site: Site) -> bool:
    try:
        site.resolve(model)
    except UnknownSiteError:
        return False
    return True
