"""VeRA: W + Λ_b B Λ_d A with random B and A that all maps share; the diagonals are trained (arXiv 2310.11454).

Once per sign. Λ_b is 0 in the beginning.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mechsteer.baselines.setup import Setup
from mechsteer.baselines.with_peft.kinds import Kind
from mechsteer.baselines.with_peft.library import config_class

RANK = 256  # PEFT's default: B and A are not trained


def _options(setup: Setup) -> dict[str, Any]:
    return {"r": RANK, "projection_prng_key": setup.seed}


VERA = Kind(name="vera", config=partial(config_class, "vera"), options=_options, coefficient="sign", lr=1e-2)
