"""Signals of the steps from token to token: how much they turn, and how evenly long they are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.signals.base import Signal
from mechsteer.signals.rows import Packed, Tail


class StepState(NamedTuple):
    """The last token of each row, and the last steps."""

    last: Tail  # [batch 1 d_model]
    steps: Tail  # [batch window-2], one number each


class _OfSteps(Signal):
    """Base: one number per step, then one per window of steps. O(d_model) per token."""

    least = 3

    def of_packed(self, rows: Packed, state: StepState | None) -> tuple[Float[Tensor, "batch pos"], StepState]:
        if state is None:
            state = StepState(Tail.empty(rows.values, 1), Tail.empty(rows.values[..., 0], self.window - 2))
        n_steps = state.last.n_seen(rows.values.shape[1]) - 1
        points, last = state.last.extended(rows.values, rows.n_new)
        sizes = torch.where(n_steps > 0, self.step(points[:, :-1], points[:, 1:]), 0)
        joined, steps = state.steps.extended(sizes, rows.n_new)
        values = self.of_steps(joined.unfold(1, self.window - 1, 1), n_steps.clamp(max=self.window - 1))
        return values, StepState(last, steps)

    def step(self, before: Tensor, now: Tensor) -> Tensor:
        """The number [batch pos] of the step between two tokens [batch pos d_model]."""
        raise NotImplementedError

    def of_steps(self, steps: Tensor, n_steps: Tensor) -> Tensor:
        """The signal [batch pos] of the last steps [batch pos window-1] (0 where there is none), `n_steps` of them."""
        raise NotImplementedError


class Coherence(_OfSteps):
    """1 − mean cos(x_{t−1}, x_t) over the last `window` tokens: 0 on a ray, 1 where neighbours are orthogonal.

    0 at the first token of a row, which has no neighbour. A zero vector has the cosine 0 with everything.
    """

    name = "coherence"

    def __init__(self, window: int = 16) -> None:
        super().__init__(window)

    def step(self, before: Tensor, now: Tensor) -> Tensor:
        return torch.cosine_similarity(before, now, dim=-1)

    def of_steps(self, steps: Tensor, n_steps: Tensor) -> Tensor:
        return torch.where(n_steps > 0, 1 - steps.sum(-1) / n_steps.clamp(min=1), 0)


class StepEntropy(_OfSteps):
    """Entropy of the step lengths of the last `window` tokens in nats: H over p_t = ‖x_t − x_{t−1}‖ / Σ.

    It ranks windows much as exact H0 entropy does, at the price of one distance per token. 0 … ln(window − 1).
    """

    name = "step_entropy"

    def __init__(self, window: int = 32) -> None:
        super().__init__(window)

    def step(self, before: Tensor, now: Tensor) -> Tensor:
        return (now - before).norm(dim=-1)

    def of_steps(self, steps: Tensor, n_steps: Tensor) -> Tensor:  # noqa: ARG002  # none is a length of 0
        return share_entropy(steps)


def share_entropy(sizes: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """−Σ p ln p in nats of p = sizes / Σ sizes; 0 where all are 0.

    >>> round(share_entropy(torch.tensor([1.0, 1.0, 0.0, 2.0])).item(), 4)
    1.0397
    """
    total = sizes.sum(-1, keepdim=True)
    return torch.special.entr(sizes / torch.where(total > 0, total, 1)).sum(-1)
