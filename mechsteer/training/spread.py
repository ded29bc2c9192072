"""How much an epoch's means vary among its samples: their standard errors.

loss = Σ_k w_k R_k,  R_k = Σ_i s_ik / Σ_i n_ik,  i over samples, s_ik the sum of term k over sample i's n_ik positions
SE²  = m / (m − 1) · Σ_i e_i²,  e_i = Σ_k w_k (s_ik − R_k n_ik) / Σ_i n_ik  (a ratio of sums: Cochran 1977, chapter 6)

Positions of one sample stand or fall together, so that samples are counted, not positions. While training goes on a
sample's loss is the one at its step. What an objective does not tell by sample is counted by batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mechsteer.training.objectives.base import Terms
from mechsteer.training.parts import Steered

_NEUTRAL = 1 << 40  # numbers of neutral texts begin here


class Spread:
    """The terms of an epoch by sample."""

    def __init__(self) -> None:
        self._seen: dict[str, list[Tensor]] = {}  # term -> [n 3]: number of the sample, sum, count
        self._n_batches = 0

    def add(self, terms: Terms, steered: Steered, samples: Tensor, *, neutral: bool = False) -> None:
        """One batch whose rows are of `samples` [batch], neutral texts numbered apart."""
        self._n_batches += 1
        numbers = samples.double() + _NEUTRAL * neutral
        for name, (total, n) in terms.items():
            if name in steered.by_row:
                rows = torch.stack([numbers, *(each.detach().to(numbers) for each in steered.by_row[name])], -1)
            else:
                value = total.item() if isinstance(total, Tensor) else total
                rows = torch.tensor([[-self._n_batches, value, n]], dtype=torch.float64)
            self._seen.setdefault(name, []).append(rows)

    def errors(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Standard error of the loss and of each term's mean; those of fewer than two samples are left out."""
        told = [name for name in weights if name in self._seen]
        if not told:
            return {}
        seen = {name: torch.cat([rows.cpu() for rows in self._seen[name]]).numpy() for name in told}
        numbers = np.unique(np.concatenate([rows[:, 0] for rows in seen.values()]))
        loss, found = np.zeros(len(numbers)), {}
        for name in told:
            at = np.searchsorted(numbers, seen[name][:, 0])
            sums, counts = (np.bincount(at, seen[name][:, i], minlength=len(numbers)) for i in (1, 2))
            n = max(counts.sum(), 1)
            deviations = (sums - sums.sum() / n * counts) / n
            loss += weights[name] * deviations
            found[name] = _error(deviations[counts > 0])
        found = {"loss": _error(loss), **found}
        return {name: error for name, error in found.items() if error is not None}


def _error(deviations: np.ndarray) -> float | None:
    m = len(deviations)
    return float(np.sqrt(m / (m - 1) * np.square(deviations).sum())) if m > 1 else None
