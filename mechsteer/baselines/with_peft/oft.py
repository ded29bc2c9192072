"""OFT: W R with R orthogonal, block-diagonal and learned by Cayley's transform (Qiu et al., arXiv 2306.07280).

Once per sign. R is the identity in the beginning.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mechsteer.baselines.setup import Setup
from mechsteer.baselines.with_peft.kinds import Kind, block_of
from mechsteer.baselines.with_peft.library import config_class
from mechsteer.errors import ConfigError

LARGEST = 32  # inputs in a block, PEFT's default


def blocks(setup: Setup, largest: int) -> int:
    """The block size. Raises ConfigError where no block of two inputs or more fits."""
    size = block_of(setup, 0, largest)
    if size < 2:
        raise ConfigError("a map reads an odd number of inputs: there are no equal blocks", "choose other maps")
    return size


def _options(setup: Setup) -> dict[str, Any]:
    return {"r": 0, "oft_block_size": blocks(setup, LARGEST)}


OFT = Kind(name="oft", config=partial(config_class, "oft"), options=_options, coefficient="sign", lr=1e-3)
