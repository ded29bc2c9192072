"""Runs of a model under parts of its singular adapters, and derivatives of a metric by what is kept of them.

The derivative is integrated along P = αI, α from 0 to 1 (integrated gradients, arXiv 1703.01365, with the nodes of Gauss
and Legendre): tr G, summed over adapters, is the effect, and qᵀ G q the share of the direction q in it, for every
orthonormal basis of the adapters' dimensions at once. Meaningless bases are ranked without another run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.adapters import Singular
from mechsteer.attribution.checking import Checked
from mechsteer.attribution.deltas import batches_of
from mechsteer.attribution.metrics import Metric
from mechsteer.attribution.replay import in_order, measured, read_positions
from mechsteer.attribution.running import forward
from mechsteer.attribution.singular_parts import Axes, Kept, Projected
from mechsteer.errors import ConfigError, DataError
from mechsteer.runtime.batches import Batch, Pair
from mechsteer.runtime.reach import n_untouched_blocks, touched
from mechsteer.runtime.restart import Start, start_from
from mechsteer.steering.interventions import Intervention, Interventions, writing

FIRST_STEPS, MOST_STEPS = 8, 64
COMPLETE = 0.05


@dataclass(frozen=True, eq=False)
class Texts:
    """One batch, all of one fold."""

    batch: Batch
    metric: Metric
    start: Start
    fold: int


@dataclass(frozen=True, eq=False)
class SingularRuns:
    """The rows of one attribution. What is no singular adapter stays on in every run, the base run included."""

    model: Any
    ivs: tuple[Intervention, ...]
    texts: tuple[Texts, ...]

    @property
    def own(self) -> list[Intervention]:
        """The interventions with a singular adapter, in their order."""
        return [iv for iv in self.ivs if isinstance(iv.adapter, Singular)]

    @property
    def adapters(self) -> list[Singular]:
        """Theirs."""
        return [iv.adapter for iv in self.ivs if isinstance(iv.adapter, Singular)]

    @property
    def whole(self) -> Kept:
        """Nothing switched off."""
        return [torch.eye(len(each.s), dtype=torch.float64) for each in self.adapters]

    @property
    def nothing(self) -> Kept:
        """Every singular adapter left out."""
        return [None] * len(self.adapters)

    def score(self, each: Texts, kept: Sequence[Tensor | None] | None) -> Tensor:
        """[batch] the metric of one batch under these parts, differentiable in them; None: under the steering itself."""
        parts, ivs = iter(kept or ()), []
        for iv in self.ivs if kept is not None else ():
            if not isinstance(iv.adapter, Singular):
                ivs.append(iv)
            elif (part := next(parts)) is not None:
                ivs.append(replace(iv, adapter=Projected(iv.adapter, part)))
        at = read_positions(each.batch, each.metric)
        steering = self.ivs if kept is None else ivs
        logits, _ = forward(self.model, each.batch, steering, start=each.start, unembed_at=at)
        return measured(each.batch, each.metric, logits)

    @torch.no_grad()
    def run(self, *by_fold: Kept | None) -> Float[np.ndarray, " n_prompts"]:
        """The metric of every prompt under the parts of its fold; one for all folds where one is given."""
        values = [self.score(each, by_fold[each.fold if len(by_fold) > 1 else 0]) for each in self.texts]
        return in_order([each.batch for each in self.texts], values).numpy()

    def slopes(self, n_steps: int) -> list[Float[Tensor, "n_prompts rank rank"]]:
        """G of every adapter. Raises ConfigError for a metric that cannot be differentiated."""
        nodes, weights = np.polynomial.legendre.leggauss(n_steps)
        n_prompts = sum(len(each.batch.rows) for each in self.texts)
        found = [torch.zeros(n_prompts, len(a.s), len(a.s)) for a in self.adapters]
        for each in self.texts:
            rows = each.batch.rows.cpu()
            for node, weight in zip(nodes, weights, strict=True):
                for total, slope in zip(found, self._slopes(each, (node + 1) / 2), strict=True):
                    total[rows] += weight / 2 * slope.to(total)
        return found

    def _slopes(self, each: Texts, alpha: float) -> list[Tensor]:
        n_rows = len(each.batch.rows)
        eyes = [torch.eye(len(a.s), device=a.s.device).repeat(n_rows, 1, 1) for a in self.adapters]
        leaves = [(alpha * eye).requires_grad_() for eye in eyes]
        with torch.enable_grad():
            values = self.score(each, leaves)
            if not values.requires_grad:
                raise ConfigError("the metric does not depend on the adapters differentiably", "avoid argmax, counts")
            slopes = torch.autograd.grad(values.sum(), leaves, allow_unused=True)
        return [eye * 0 if slope is None else slope for slope, eye in zip(slopes, eyes, strict=True)]


@torch.no_grad()
def prepared(
    model: Any,
    iv: Interventions,
    pairs: Sequence[Pair],
    metric: Metric,
    fold_of: np.ndarray,
    batch_size: int,
    *,
    other_order: bool = False,
) -> SingularRuns:
    """Batches of one fold each. Raises ConfigError without a singular adapter that is on, DataError where none touches a
    token."""
    ivs = tuple(each.at(model) for each in writing(iv) if each.coeff != 0)
    own = [each for each in ivs if isinstance(each.adapter, Singular)]
    if not own:
        raise ConfigError(
            "there is no singular adapter with a coefficient", "make one: mechsteer.singular_steering(model)"
        )
    n_skipped, texts = n_untouched_blocks(model, ivs), []
    for fold in range(fold_of.max() + 1):
        rows = set(np.flatnonzero(fold_of == fold).tolist())
        for batch in batches_of(model, pairs, batch_size, other_order=other_order, rows=rows):
            of_rows = metric.of(batch.rows.tolist())
            texts.append(Texts(batch, of_rows, start_from(model, batch, n_skipped), fold))
    if not any(bool(touched(own, each.batch.context()).any()) for each in texts):
        raise DataError("the adapters touch no token of these prompts", "do their scopes lie in the text to come?")
    return SingularRuns(model, ivs, tuple(texts))


def resolved_slopes(runs: SingularRuns, total: float) -> tuple[list[Tensor], int]:
    """(G of every adapter, steps), in more steps where they do not add up to the effect."""
    n_steps = FIRST_STEPS
    while True:
        found = runs.slopes(n_steps)
        linear = sum(float(g.double().diagonal(dim1=1, dim2=2).sum()) for g in found) / len(found[0])
        if n_steps >= MOST_STEPS or abs(linear - total) <= COMPLETE / 2 * abs(total):
            return found, n_steps
        n_steps *= 2


def really_switched(
    runs: SingularRuns, axes: Axes, chosen: Sequence[Tensor], sizes: Sequence[int], base: np.ndarray
) -> Checked:
    """Keep the first `sizes` of `chosen` [1 k] alone, and switch them off; every context those of its fold."""
    kept, left, energy = [], [], []
    share_of = np.bincount([fold for each in runs.texts for fold in [each.fold] * len(each.batch.rows)])
    for size in sizes:
        parts = [axes.kept(numbers[0, :size]) for numbers in chosen]
        rest = [axes.left(numbers[0, :size]) for numbers in chosen]
        kept.append(runs.run(*parts) - base)
        left.append(runs.run(*rest) - base)
        energy.append(np.average([_energy(runs, part) for part in parts], weights=share_of))
    return Checked(np.stack(kept, 1), np.stack(left, 1), np.asarray(energy))


@torch.no_grad()
def _energy(runs: SingularRuns, kept: Kept) -> float:
    """Σ ‖ΔW‖² of the parts / of the whole."""

    def size(parts: Kept) -> float:
        triples = zip(runs.own, runs.adapters, parts, strict=True)
        cores = [Projected(adapter, part).core(iv.coeff) for iv, adapter, part in triples if part is not None]
        return sum(float(core.double().square().sum()) for core in cores)

    return size(kept) / size(runs.whole)
