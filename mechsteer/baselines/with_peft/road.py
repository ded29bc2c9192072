"""RoAd: pairs of a map's outputs are turned by angles θ and scaled by α; c multiplies θ (Liao & Monz, arXiv 2409.00119).

    R(c) = ((α − 1) c + 1) · rotation by c θ

Identity in the beginning and at c = 0; where α stays 1, R(−c) undoes R(c).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mechsteer.baselines.setup import Setup
from mechsteer.baselines.with_peft.kinds import Kind, block_of
from mechsteer.baselines.with_peft.library import config_class
from mechsteer.errors import ConfigError

LARGEST = 64  # outputs in a group, PEFT's default


def _options(setup: Setup) -> dict[str, Any]:
    size = block_of(setup, 1, LARGEST)
    if size < 2:
        raise ConfigError("RoAd turns pairs of outputs, and a map has an odd number of them", "choose other maps")
    return {"group_size": size}


ROAD = Kind(name="road", config=partial(config_class, "road"), options=_options, coefficient="angle", lr=1e-2)
