"""IA3: y = λ ∘ W x, with the factors (λ − 1) c + 1; λ is 1 in the beginning (Liu et al., arXiv 2205.05638).

All maps are scaled at their output. (λ − 1) c + 1 is the same as scaling the added part (λ − 1) ∘ W x.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mechsteer.baselines.setup import Setup
from mechsteer.baselines.with_peft.kinds import Kind
from mechsteer.baselines.with_peft.library import config_class


def _options(setup: Setup) -> dict[str, Any]:  # noqa: ARG001  # every kind is asked so
    return {"feedforward_modules": []}


IA3 = Kind(name="ia3", config=partial(config_class, "ia3"), options=_options, coefficient="added", lr=1e-2)
