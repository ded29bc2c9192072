"""Clamping: the coordinate along a direction is set to a value t, delta = c · (t − x·d̂) d̂ with d̂ = d/‖d‖.

At c = 1 the coordinate is t whatever it was; between 0 and 1 it goes that share of the way; identity at c = 0. With
t = 0 it is ablation. Templeton et al. 2024 ("Scaling Monosemanticity") clamp features of a dictionary so, d̂ being the
decoder's row. It reads and writes the same site.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mechsteer.adapters.along import Along
from mechsteer.errors import NonFiniteError
from mechsteer.runtime.context import Context


class Clamp(Along):
    """c · (t − x·d̂) d̂. `vector`: the direction d [d_model]; `value`: t, in units of the activation. Raises as `Along`."""

    def __init__(self, vector: Any, value: float) -> None:
        super().__init__(vector)
        if not math.isfinite(value):
            raise NonFiniteError(f"the value to clamp to is {value}", "give a finite number")
        self.value = float(value)

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        along, unit = self.coordinate(acts)
        self.noted(along, ctx)
        return (coeff * (self.value - along) * unit).to(acts.dtype), None

    def config(self) -> dict[str, Any]:
        return {**super().config(), "value": self.value}

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Clamp:
        return cls(torch.ones(*config["shape"]), config["value"])
