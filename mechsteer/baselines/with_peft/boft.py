"""BOFT: OFT with R a product of sparse orthogonal factors, and a scale per output (Liu et al., arXiv 2311.06243).

Once per sign. R is the identity in the beginning.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mechsteer.baselines.setup import Setup
from mechsteer.baselines.with_peft.kinds import Kind
from mechsteer.baselines.with_peft.library import config_class
from mechsteer.baselines.with_peft.oft import blocks

LARGEST = 4  # inputs in a block, PEFT's default


def _options(setup: Setup) -> dict[str, Any]:
    return {"boft_block_size": blocks(setup, LARGEST)}


BOFT = Kind(name="boft", config=partial(config_class, "boft"), options=_options, coefficient="sign", lr=1e-3)
