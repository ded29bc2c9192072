"""Full fine-tuning, the ceiling: every weight of a copy of the model, one copy for each sign.

It is the base model at c = 0, one copy where c > 0 and another where c < 0, however large c is. Both begin as the base.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from mechsteer.baselines.base import Method
from mechsteer.baselines.models import PerSign
from mechsteer.baselines.setup import Setup
from mechsteer.baselines.trainer import train_method
from mechsteer.models.plain import plain_copy, reloaded

LR = 1e-4


def by_fine_tuning(setup: Setup) -> Method:
    """Two copies of the model in memory, and AdamW's two moments of each while they are trained."""
    (positive, first), (negative, second) = _copy(setup.model), _copy(setup.model)
    parameters = [*first, *second]
    n = sum(p.numel() for p in parameters)
    method = PerSign(setup.label("full fine-tuning"), setup.model, positive, negative, n)
    train_method(method, parameters, setup.model, setup.objective(), setup.settings(LR), progress=setup.progress)
    return method


def _copy(model: Any) -> tuple[Any, list[nn.Parameter]]:
    """A copy, and its parameters without those that booting adds."""
    plain = plain_copy(model, shares_memory=False)
    parameters = list(plain.parameters())
    return reloaded(plain, model), parameters
