"""The check of a selection: the model really runs with the kept part of every delta, and with the rest of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.attribution.replay import Runner
from mechsteer.attribution.selection import Evidence, spanned

Curves = Float[np.ndarray, "n_contexts n_sizes"]


@dataclass(frozen=True, eq=False)
class Checked:
    """Effects on each context, in the metric's units, at each number of directions."""

    kept: Curves  # of the delta's projection on the span
    left: Curves  # of what the projection leaves
    energy: Float[np.ndarray, " n_sizes"]  # share of Σ‖delta‖² kept

    def parts(self, whole: np.ndarray) -> dict[str, Curves]:
        """Of which the shares are made: effect of the kept part, and of the whole [n_contexts] less that of the rest."""
        return {"sufficiency": self.kept, "necessity": whole[:, None] - self.left}


def really_run(
    runner: Runner,
    base: np.ndarray,
    found: Evidence,
    chosen: Sequence[Tensor],
    fold_of: np.ndarray,
    sizes: Sequence[int],
) -> Checked:
    """Keep and remove the first `sizes` directions in the real model; every context those selected without its fold.

    `base`, `fold_of`: of the contexts of `runner`, in their order.
    """
    spans = [spanned(found, pick)[0] for pick in chosen]
    folds = torch.as_tensor(fold_of)
    kept, left, energy = [], [], []
    whole = sum(float(each.delta.double().square().sum()) for each in runner.batches)
    for size in sizes:
        parts = []
        for each in runner.batches:
            part, own = torch.zeros_like(each.delta), folds[each.batch.rows.cpu()]
            for fold, axes in enumerate(spans):
                rows, span = (own == fold).to(part.device), axes[:size].to(part.device)
                part[rows] = ((each.delta[rows].double() @ span.T) @ span).to(part.dtype)
            parts.append(part)
        rest = [each.delta - part for each, part in zip(runner.batches, parts, strict=True)]
        kept.append(runner.run(parts).numpy() - base)
        left.append(runner.run(rest).numpy() - base)
        energy.append(sum(float(part.double().square().sum()) for part in parts) / whole)
    return Checked(np.stack(kept, 1), np.stack(left, 1), np.asarray(energy))
