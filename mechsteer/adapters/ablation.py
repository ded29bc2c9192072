"""Ablation: what lies along a direction is taken out, delta = −c · (x·d̂) d̂ with d̂ = d/‖d‖.

At c = 1 the activation has no component along d; at c = 2 it is mirrored; identity at c = 0. Arditi et al. 2024
(arXiv 2406.11717) take the refusal direction out of the residual stream at every layer and token so: one adapter at
every site of interest. It reads and writes the same site.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mechsteer.adapters.along import Along
from mechsteer.runtime.context import Context


class Ablation(Along):
    """−c · (x·d̂) d̂. `vector`: the direction d [d_model]; its norm does not matter. Raises as `Along`."""

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        along, unit = self.coordinate(acts)
        self.noted(along, ctx)
        return (-coeff * along * unit).to(acts.dtype), None

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Ablation:
        return cls(torch.ones(*config["shape"]))
