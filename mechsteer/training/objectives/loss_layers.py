"""At which layers a contrastive loss is measured, where not at one: every so many, or those that tell the sides best.

    every_loss_layer(n_layers)          every fourth, from the middle on
    correlated_layers(model, pairs)     those with the largest correlation between the side of a text and its projection

The correlation is over texts, with the mean of their pair taken off: with projections p_i of differences D_i = h_positive −
h_negative of the unsteered model, mean p / sqrt(mean p²). The direction is the mean difference of one half of the pairs, p
is of the other half, both ways: a layer is not rated by pairs that chose its direction.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, DataError
from mechsteer.models.sites import Site
from mechsteer.training.objectives.differences import pair_differences
from mechsteer.training.objectives.pairs import PairsLike, scored_rows

_MIDDLE = 0.5


def every_loss_layer(n_layers: int, step: int = 4, *, first: int | float = _MIDDLE) -> list[int]:
    """Every `step`-th layer from `first` (an index, or a share of the depth) on, at least one.

    Raises ConfigError for a step below 1 or a first layer that is not there.

    >>> every_loss_layer(28), every_loss_layer(6), every_loss_layer(12, 3, first=5)
    ([14, 18, 22, 26], [3], [5, 8, 11])
    """
    if step < 1:
        raise ConfigError(f"every {step} layers", "give 1 or more")
    return list(range(_first(n_layers, first), n_layers, step))


def correlated_layers(
    model: Any,
    pairs: PairsLike,
    n: int = 3,
    *,
    first: int | float = _MIDDLE,
    n_last: int = 6,
    batch_size: int = 32,
) -> list[int]:
    """The `n` layers from `first` on whose mean difference tells the two sides of `pairs` best, in their order.

    Raises ConfigError for fewer than one layer, or a first one that is not there, DataError for fewer than four pairs.
    """
    n_layers = model.cfg.n_layers
    layers = range(_first(n_layers, first), n_layers)
    if not 1 <= n <= len(layers):
        raise ConfigError(f"{n} layers of {len(layers)} from layer {layers[0]} on", f"ask for 1 to {len(layers)}")
    if len(pairs) < 4:
        raise DataError(f"{len(pairs)} pairs", "four or more: one half finds directions, the other rates them")
    found = pair_differences(model, scored_rows(model, pairs), [Site(layer) for layer in layers], n_last, batch_size)
    rated = sorted(zip(layers, map(correlation, found), strict=True), key=lambda pair: -pair[1])
    return sorted(layer for layer, _ in rated[:n])


def correlation(differences: Tensor) -> float:
    """See above; of differences [n_pairs d_model]. 0 where nothing differs."""
    halves = differences.double()[::2], differences.double()[1::2]
    along = torch.cat([of @ by.mean(0) / by.mean(0).norm().clamp(min=1e-300) for of, by in (halves, halves[::-1])])
    size = math.sqrt(float(along.square().mean()))
    return float(along.mean()) / size if size > 0 else 0.0


def _first(n_layers: int, first: int | float) -> int:
    layer = max(1, int(first * n_layers)) if isinstance(first, float) else first
    if not 0 <= layer < n_layers:
        raise ConfigError(f"the first loss layer is {first} of {n_layers} layers", "give an index, or a share of depth")
    return layer
