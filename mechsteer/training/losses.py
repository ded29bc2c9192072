"""The training loss: cross-entropy on target tokens + λ·KL(frozen || steered) on what is to be left alone + μ·mean‖delta‖².

"Left alone" are positions the scope touches, or that come after one, and that neither are target tokens nor
predict one; and every position of neutral text, steered with scope `all`. On prompt tokens before the scope
the KL is identically zero and is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mechsteer.runtime.batches import Batch
from mechsteer.runtime.reach import touched
from mechsteer.runtime.session import Session
from mechsteer.shapes import Mask
from mechsteer.steering.interventions import Intervention


def left_alone(interventions: Sequence[Intervention], batch: Batch) -> Mask:
    """Positions [batch pos] of a batch where the steered model is to predict as the frozen one does."""
    reached = touched(interventions, batch.context()).long().cumsum(1) > 0
    reached[:, batch.n_prompt :] = False
    return reached & batch.mask & ~batch.predicts_target


def square_norms(session: Session) -> tuple[Tensor, int]:
    """(Σ‖delta‖², how many) over touched positions and interventions of the last recorded forward."""
    assert session.recorded is not None
    total, n, ctx = torch.zeros((), device=session.backend.device), 0, session.contexts[-1]
    for iv, deltas in zip(session.interventions, session.recorded, strict=True):
        here = iv.scope.touched(ctx)
        n += int(here.sum()) if isinstance(here, Tensor) else int(ctx.mask.sum()) * here
        total = total + deltas[-1].float().pow(2).sum()
    return total, n


@dataclass(frozen=True)
class Tally:
    """Sums and counts of the three terms: tallies of several batches add up."""

    cross_entropy: Tensor | float  # nats
    n_targets: int
    kl: Tensor | float  # nats
    n_alone: int
    square_norm: Tensor | float
    n_touched: int

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.cross_entropy + other.cross_entropy,
            self.n_targets + other.n_targets,
            self.kl + other.kl,
            self.n_alone + other.n_alone,
            self.square_norm + other.square_norm,
            self.n_touched + other.n_touched,
        )

    def means(self) -> dict[str, Tensor | float]:
        """Each term per position; 0 where there is none (no position to be left alone costs nothing)."""
        return {
            "cross_entropy": self.cross_entropy / max(self.n_targets, 1),
            "kl": self.kl / max(self.n_alone, 1),
            "square_norm": self.square_norm / max(self.n_touched, 1),
        }

    def loss(self, kl_weight: float, l2_weight: float) -> Tensor | float:
        """cross-entropy + λ·KL + μ·mean‖delta‖²."""
        means = self.means()
        return means["cross_entropy"] + kl_weight * means["kl"] + l2_weight * means["square_norm"]

    def detached(self) -> Tally:
        """The same as plain numbers."""
        sums = {k: getattr(self, k) for k in ("cross_entropy", "kl", "square_norm")}
        return replace(self, **{k: v.item() if isinstance(v, Tensor) else v for k, v in sums.items()})
