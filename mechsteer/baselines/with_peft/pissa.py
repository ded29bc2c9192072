"""PiSSA: B A begins as the leading singular triples, W_res + B A as W; c scales B A − B₀ A₀ (Meng et al., arXiv 2404.02948).

Identity in the beginning to rounding only: W is taken apart and put together again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mechsteer.baselines.setup import Setup
from mechsteer.baselines.with_peft.kinds import Kind
from mechsteer.baselines.with_peft.library import config_class
from mechsteer.baselines.with_peft.lora import low_rank


def _options(setup: Setup) -> dict[str, Any]:
    return {**low_rank(setup), "init_lora_weights": "pissa"}


PISSA = Kind(name="pissa", config=partial(config_class, "lora"), options=_options, coefficient="added", lr=1e-3)
