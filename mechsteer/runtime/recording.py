"""What a session keeps when it records: per intervention the deltas it added and the readings it noted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mechsteer.runtime.context import Context


class Recording:
    """Deltas and readings of `n_items` interventions and observations, parallel to the contexts of the forwards."""

    def __init__(self, n_items: int, *, keeps_deltas: bool = True) -> None:
        self.contexts: list[Context] = []
        self.deltas: list[list[Tensor]] | None = [[] for _ in range(n_items)] if keeps_deltas else None
        self._readings: list[dict[str, list[Tensor | None]]] = [{} for _ in range(n_items)]

    def keep(self, i: int, ctx: Context, touched: bool | Tensor, delta: Tensor | None) -> None:
        """What item i noted in `ctx` and, of an intervention, the delta [batch pos ...] as it was added."""
        assert ctx.readings is not None
        at = touched if isinstance(touched, Tensor) else ctx.mask & touched
        readings = {name: _where(at, values) for name, values in ctx.readings.items()}
        if delta is not None:
            ctx.note("delta_norm", delta.detach().flatten(2).float().norm(dim=-1))
            readings["delta_norm"] = ctx.readings["delta_norm"]  # 0, not NaN, where nothing is added
            if self.deltas is not None:
                self.deltas[i].append(delta)
        for name, values in readings.items():
            series = self._readings[i].setdefault(name, [])
            series.extend([None] * (len(self.contexts) - 1 - len(series)))
            series.append(values)

    @property
    def readings(self) -> list[dict[str, list[Tensor | None]]]:
        """Per item: name -> one value per context, None where nothing was noted in that forward."""
        n = len(self.contexts)
        return [{name: [*v, *[None] * (n - len(v))] for name, v in noted.items()} for noted in self._readings]


def _where(at: Tensor, values: Tensor) -> Tensor:
    """`values` [batch pos ...] where `at` [batch pos], NaN elsewhere."""
    values = values if values.is_floating_point() else values.float()
    return torch.where(at if values.ndim == 2 else at[..., None], values, math.nan)
