"""Several signals of one trajectory, and how far each is from what it has been in its row so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.shapes import Mask, Resid
from mechsteer.signals.base import Signal, wide
from mechsteer.signals.rows import packed


class SignalState(NamedTuple):
    """Of each signal its own, and the sums of their values so far."""

    each: tuple[Any, ...]
    total: Float[Tensor, "batch n_signals"]
    n: Tensor  # [batch]


class SignalSet:
    """Signals side by side. Raises ConfigError where two have one name, or there is none.

    >>> from mechsteer.signals import Coherence, StepEntropy
    >>> values, deviations, _ = SignalSet([Coherence(), StepEntropy()])(torch.randn(2, 9, 4))
    >>> values.shape, deviations.shape
    (torch.Size([2, 9, 2]), torch.Size([2, 9, 2]))
    """

    def __init__(self, signals: Sequence[Signal]) -> None:
        self.names = tuple(signal.name for signal in signals)
        if not signals or len(set(self.names)) < len(self.names):
            raise ConfigError(f"the signals are {list(self.names)}", "give at least one, each once")
        self.signals = tuple(signals)

    def __len__(self) -> int:
        return len(self.signals)

    @torch.no_grad()
    def __call__(
        self, acts: Resid, mask: Mask | None = None, state: SignalState | None = None
    ) -> tuple[Float[Tensor, "batch pos n_signals"], Float[Tensor, "batch pos n_signals"], SignalState]:
        """(values, |value − mean of the row's tokens before|, new state); see `Signal`. The first token deviates by 0."""
        rows = packed(wide(acts), mask)
        before = (None,) * len(self) if state is None else state.each
        found = [signal.of_packed(rows, own) for signal, own in zip(self.signals, before, strict=True)]
        values = torch.stack([of_one for of_one, _ in found], -1)
        column = torch.arange(values.shape[1], device=acts.device)
        values = torch.where((column < rows.n_new[:, None])[..., None], values, 0)
        if state is None:
            total, n = values.new_zeros(len(acts), len(self)), torch.zeros_like(rows.n_new)
        else:
            total, n = state.total, state.n
        sums = total[:, None] + values.cumsum(1)
        n_before = (n[:, None] + column)[..., None]
        deviations = torch.where(n_before > 0, (values - (sums - values) / n_before.clamp(min=1)).abs(), 0)
        after = SignalState(tuple(own for _, own in found), total + values.sum(1), n + rows.n_new)
        return rows.unpacked(values), rows.unpacked(deviations), after
