"""Exact H0 entropy of a sliding window, for every token of every row at once.

`mechsteer.signals.spanning.StreamingH0` is the same for one row in float64. Here a token costs `window` distances and
one spanning tree; what is kept are the points of the window and their distances.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.signals.base import Signal
from mechsteer.signals.linkage import merge_heights
from mechsteer.signals.rows import Packed, Tail
from mechsteer.signals.spread import newest_gaps
from mechsteer.signals.steps import share_entropy

MATRIX_VALUES = 2**22  # numbers of one block of distance matrices: 16 MB in float32


class H0State(NamedTuple):
    """The last points of each row, and of each its distances to those before it."""

    points: Tail  # [batch window-1 d_model]
    distances: Tail  # [batch window-1 window-1], the nearest in time last


class WindowedH0(Signal):
    """H0 persistent entropy of the last `window` tokens in nats (full Vietoris-Rips filtration, Euclidean).

    −Σ p ln p over the edges of the minimum spanning tree; 0 with fewer than two distinct points. It is at most
    ln(n − 1) for n points, so it grows while a row has fewer than `window`.
    """

    name = "h0_entropy"

    def __init__(self, window: int = 32) -> None:
        super().__init__(window)

    def of_packed(self, rows: Packed, state: H0State | None) -> tuple[Float[Tensor, "batch pos"], H0State]:
        batch, pos, _ = rows.values.shape
        before = self.window - 1
        if state is None:
            empty = rows.values.new_zeros(batch, pos, before)
            state = H0State(Tail.empty(rows.values, before), Tail.empty(empty, before))
        n_points = state.points.n_seen(pos).clamp(max=self.window)
        gaps = newest_gaps(rows.values, state.points, self.window)
        new = [part[:, :, :-1].norm(dim=-1) for part, _ in gaps]
        _, points = state.points.extended(rows.values, rows.n_new)
        joined, distances = state.distances.extended(torch.cat(new, 1) if new else rows.values[..., :0], rows.n_new)
        return self._entropies(joined, n_points), H0State(points, distances)

    def _entropies(self, joined: Tensor, n_points: Tensor) -> Tensor:
        """[batch pos] of distances [batch window-1+pos window-1] of each token to those before it."""
        batch, pos = n_points.shape
        # point a of a matrix is the token a steps back: the newest is first, and always there
        step = torch.arange(self.window, device=joined.device)
        newer, apart = torch.minimum(step[:, None], step), (step[:, None] - step).abs()
        column = (self.window - 1 - apart).clamp(max=self.window - 2)  # the diagonal's does not matter
        size = max(1, MATRIX_VALUES // (batch * self.window**2)) if batch else max(pos, 1)
        found = []
        for start in range(0, pos, size):
            token = torch.arange(start, min(start + size, pos), device=joined.device)
            matrix = joined[:, self.window - 1 + token[:, None, None] - newer, column]
            absent = step >= n_points[:, token, None]  # [batch block window]
            matrix = matrix.masked_fill(absent[..., None] | absent[..., None, :], math.inf)
            heights = merge_heights(matrix.flatten(0, 1))
            found.append(share_entropy(torch.where(heights.isinf(), 0, heights)).reshape(batch, -1))
        return torch.cat(found, 1) if found else joined[:, :0, 0]
