"""Vectors found from activations: each is added behind the last layer, or behind every layer, times the coefficient.

    random           uniformly random orientation, the norm of the mean difference
    mean_difference  mean(h_positive − h_negative) at the last token (Rimsky et al., arXiv 2312.06681)
    pairwise_pca     first principal axis of the differences about zero, on the side of their mean (Zou et al., arXiv 2310.01405)

What they are made by is `mechsteer.directions`.
"""

from __future__ import annotations

import torch

from mechsteer.adapters import Static
from mechsteer.baselines.base import Method, Steered
from mechsteer.baselines.setup import Setup
from mechsteer.directions import Direction, extract, random_direction
from mechsteer.steering.interventions import Intervention


def by_chance(setup: Setup) -> Method:
    """A random direction of the mean difference's norm: what any push of that size does."""
    like = _extracted(setup, "mean_difference")
    return _added(setup, "random", random_direction(like, seed=setup.seed))


def by_means(setup: Setup) -> Method:
    """The difference of the two sides' means."""
    return _added(setup, "mean_difference", _extracted(setup, "mean_difference"))


def by_pca(setup: Setup) -> Method:
    """The differences' first principal axis, not re-centred; its norm is their root mean square along it."""
    return _added(setup, "pairwise_pca", _extracted(setup, "pairwise_pca"))


def _extracted(setup: Setup, method: str) -> Direction:
    return extract(setup.model, setup.pairs, setup.vector_layer, method, held_out=0.0, batch_size=_size(setup))


def _size(setup: Setup) -> int:
    return setup.config.batch_size


def _added(setup: Setup, name: str, direction: Direction) -> Method:
    vector = torch.as_tensor(direction.vector)
    return Steered(name, setup.model, Intervention(Static(vector), setup.vector_layer))
