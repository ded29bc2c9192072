"""What follows from an adapter's tensors alone, kept until one of them changes.

It is no state of a run: any run may take it, and none can tell. Tensors are compared by value, not by version counters,
which an edit through `.data` passes by; so a copy of an adapter may keep what its original had made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class LastMade:
    """The last thing made, and of what. One assignment changes it, so threads may share it."""

    def __init__(self) -> None:
        self._kept: tuple[float, tuple[Tensor | None, ...], Tensor] | None = None

    def get(self, make: Callable[[float], Tensor], coeff: float, *of: Tensor | None) -> Tensor:
        """`make(coeff)`, a function of `coeff` and the tensors `of`; always made where one of them takes a gradient."""
        if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in of):
            return make(coeff)
        kept = self._kept
        if kept is not None and kept[0] == coeff and all(map(_is_same, kept[1], of)):
            return kept[2]
        with torch.inference_mode(False), torch.no_grad():  # a later run may need gradients by what is read
            made = make(coeff)
            self._kept = coeff, tuple(None if tensor is None else tensor.detach().clone() for tensor in of), made
        return made


def _is_same(kept: Tensor | None, now: Tensor | None) -> bool:
    if kept is None or now is None:
        return kept is now
    return kept.device == now.device and kept.dtype == now.dtype and torch.equal(kept, now)
