"""DoRA: m · (W + B A) / ‖W + B A‖ by rows, of which c scales the change W' − W (Liu et al., arXiv 2402.09353).

The magnitude m is trained too, so that scaling B A alone would not lead back to W at c = 0. Identity in the beginning.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mechsteer.baselines.setup import Setup
from mechsteer.baselines.with_peft.kinds import Kind
from mechsteer.baselines.with_peft.library import config_class
from mechsteer.baselines.with_peft.lora import low_rank


def _options(setup: Setup) -> dict[str, Any]:
    return {**low_rank(setup), "use_dora": True}


DORA = Kind(name="dora", config=partial(config_class, "lora"), options=_options, coefficient="added", lr=3e-3)
