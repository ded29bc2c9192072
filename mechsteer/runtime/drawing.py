"""Where random numbers come from: a generator, or a seed that makes one."""

from __future__ import annotations

import torch

from mechsteer.errors import ConfigError


def as_generator(generator: torch.Generator | None, seed: int | None) -> torch.Generator | None:
    """The generator, or a new one of `seed`; None where neither is given.

    Raises ConfigError for both, for a generator that is none, and a seed that is no whole number.
    """
    if generator is not None and seed is not None:
        raise ConfigError(f"both generator and seed={seed!r} are given", "pass one of the two")
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise ConfigError(f"generator is {generator!r:.80}", "pass a torch.Generator, or seed=0")
        return generator
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
        raise ConfigError(f"seed is {seed!r:.80}", "pass a whole number of at most 64 bits")
    return torch.Generator().manual_seed(seed)
