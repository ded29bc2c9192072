"""DeLoRA: W + B Ξ A with ‖B Ξ A‖ bounded by λ‖W‖, of which c scales the added part (Bini et al., arXiv 2503.18225).

Each of the r directions is normalised, so the change jumps to its bound with the first step: λ begins small here (PEFT's own
15 is a bound that may exceed the weight). Identity in the beginning.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mechsteer.baselines.setup import Setup
from mechsteer.baselines.with_peft.kinds import Kind, rank_of
from mechsteer.baselines.with_peft.library import config_class

BOUND = 0.1


def _options(setup: Setup) -> dict[str, Any]:
    return {"r": rank_of(setup), "delora_lambda": BOUND}


DELORA = Kind(name="delora", config=partial(config_class, "delora"), options=_options, coefficient="added", lr=3e-3)
