"""How far the last tokens lie apart."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.signals.base import Signal
from mechsteer.signals.rows import Packed, Tail

BLOCK_VALUES = 2**22  # numbers of one block of differences: 16 MB in float32


class Variance(Signal):
    """Mean squared distance of the last `window` tokens from their mean.

    Beside their mean square norm, Σ‖x − x̄‖² / Σ‖x‖², so that it lies in 0 … 1 at every layer; with `relative=False`
    per coordinate, Σ‖x − x̄‖² / (n · d_model), in squared units of the activations. 0 for one token.
    """

    name = "variance"

    def __init__(self, window: int = 16, *, relative: bool = True) -> None:
        super().__init__(window)
        self.relative = relative

    def of_packed(self, rows: Packed, state: Tail | None) -> tuple[Float[Tensor, "batch pos"], Tail]:
        state = Tail.empty(rows.values, self.window - 1) if state is None else state
        n = state.n_seen(rows.values.shape[1]).clamp(max=self.window)
        found = []
        for gaps, there in newest_gaps(rows.values, state, self.window):
            count = there.sum(-1)
            mean = gaps.sum(-2) / count[..., None]
            found.append(gaps.square().sum((-1, -2)) / count - mean.square().sum(-1))
        spread = torch.cat(found, 1).clamp(min=0) if found else rows.values[..., 0]
        points, tail = state.extended(rows.values, rows.n_new)
        if not self.relative:
            return spread / rows.values.shape[-1], tail
        size = points.square().sum(-1).unfold(1, self.window, 1).sum(-1) / n
        return torch.where(size > 0, spread / torch.where(size > 0, size, 1), 0), tail


def newest_gaps(
    values: Float[Tensor, "batch pos d_model"], tail: Tail, window: int
) -> Iterator[tuple[Float[Tensor, "batch block window d_model"], Bool[Tensor, "batch block window"]]]:
    """Per block of tokens (x_i − x_t of every token i of the window that ends in t, the newest last; which i there are).

    Differences, not products: what is subtracted is large and much alike. Absent ones are 0.
    """
    (batch, pos, d_model), device = values.shape, values.device
    joined = torch.cat([tail.values, values], 1)
    there = torch.arange(window, 0, -1, device=device) <= tail.n_seen(pos)[..., None]
    size = max(1, BLOCK_VALUES // max(batch * window * d_model, 1))
    for start in range(0, pos, size):
        end = min(start + size, pos)
        clouds = joined[:, start : end + window - 1].unfold(1, window, 1).transpose(2, 3)
        gaps = clouds - values[:, start:end, None]
        yield torch.where(there[:, start:end, :, None], gaps, 0), there[:, start:end]
