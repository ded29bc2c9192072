"""LoRA: W + (α / r) B A, of which c scales the added part. B is 0 in the beginning (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

from functools import partial
from typing import Any

from mechsteer.baselines.setup import Setup
from mechsteer.baselines.with_peft.kinds import Kind, rank_of
from mechsteer.baselines.with_peft.library import config_class


def low_rank(setup: Setup) -> dict[str, Any]:
    """The rank, and a scale α / r of 1."""
    rank = rank_of(setup)
    return {"r": rank, "lora_alpha": rank}


LORA = Kind(name="lora", config=partial(config_class, "lora"), options=low_rank, coefficient="added", lr=3e-3)
