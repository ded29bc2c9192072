"""Rows of a batch token by token: padding packed away, and the last tokens of each row kept from forward to forward.

Padding may stand anywhere. `packed` moves the real tokens of each row to its left, so that everything behind it deals
with neighbours only; `Packed.unpacked` puts values back where their tokens were.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.errors import ShapeError
from mechsteer.shapes import Lengths, Mask


class Packed(NamedTuple):
    """The real tokens of each row, side by side from the left; zeros behind them."""

    values: Float[Tensor, "batch pos ..."]
    n_new: Lengths  # real tokens of each row
    mask: Mask | None  # None: all are real
    order: Int[Tensor, "batch pos"] | None  # where each packed token stood; None: it stands there still

    def unpacked(self, values: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "batch pos ..."]:
        """Values of the packed tokens at the places of their tokens; 0 at padding."""
        if self.mask is None:
            return values
        if self.order is not None:
            values = torch.zeros_like(values).scatter(1, _over(self.order, values), values)
        return torch.where(_over(self.mask, values), values, 0)


def packed(values: Float[Tensor, "batch pos ..."], mask: Mask | None = None) -> Packed:
    """Pack [batch pos ...] by the mask of real tokens. Raises ShapeError where the two do not belong together."""
    batch, pos = values.shape[:2]
    if mask is None:
        return Packed(values, torch.full((batch,), pos, device=values.device), None, None)
    if mask.shape != (batch, pos):
        raise ShapeError(
            f"the mask is {list(mask.shape)}, the activations are {list(values.shape)}", "give one truth per token"
        )
    n_new = mask.long().sum(1)
    if pos == 1:  # a step of a generation: nothing can be moved
        return Packed(torch.where(_over(mask, values), values, 0), n_new, mask, None)
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    moved = values.gather(1, _over(order, values))
    is_real = torch.arange(pos, device=values.device) < n_new[:, None]
    return Packed(torch.where(_over(is_real, values), moved, 0), n_new, mask, order)


class Tail(NamedTuple):
    """The last tokens of each row."""

    values: Float[Tensor, "batch size ..."]  # the newest last; zeros before the first token
    n: Lengths  # real tokens that have gone by

    @classmethod
    def empty(cls, like: Float[Tensor, "batch pos ..."], size: int) -> Tail:
        """Before the first token, for values shaped as `like`."""
        return cls(like.new_zeros(len(like), size, *like.shape[2:]), torch.zeros(len(like), device=like.device).long())

    def extended(
        self, values: Float[Tensor, "batch pos ..."], n_new: Lengths
    ) -> tuple[Float[Tensor, "batch joined ..."], Tail]:
        """(these and the packed new ones in one, joined = size + pos; the tail of that)."""
        joined = torch.cat([self.values, values], 1)
        size = self.values.shape[1]
        at = n_new[:, None] + torch.arange(size, device=values.device)
        return joined, Tail(joined.gather(1, _over(at, joined)), self.n + n_new)

    def n_seen(self, pos: int) -> Int[Tensor, "batch pos"]:
        """How many real tokens have gone by at each of the next `pos` packed ones, it included."""
        return self.n[:, None] + torch.arange(1, pos + 1, device=self.n.device)


def _over(index: Tensor, values: Tensor) -> Tensor:
    """[batch n] made as wide as the values [batch pos ...] are behind their second axis."""
    wide = index.reshape(*index.shape, *[1] * (values.ndim - 2))
    return wide.expand(*index.shape, *values.shape[2:])
