"""A random order in which nothing keeps its place: what a shuffled router is shuffled by."""

from __future__ import annotations

import torch
from torch import Tensor

from mechsteer.errors import ConfigError


def derangement(n: int, generator: torch.Generator) -> Tensor:
    """[n] a random permutation of 0 ... n - 1, one cycle: no element stays where it is. Raises ConfigError for n < 2.

    >>> derangement(2, torch.Generator()).tolist()
    [1, 0]
    """
    if n < 2:
        raise ConfigError(f"{n} elements cannot be shuffled", "a router needs two atoms at least")
    cycle = torch.randperm(n, generator=generator)
    return torch.empty_like(cycle).index_copy(0, cycle, cycle.roll(-1))
