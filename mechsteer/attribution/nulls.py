"""The same procedure in bases that mean nothing: what any basis of this size and geometry would show.

Cheap nulls project recorded gradients; some of them are really run as well. A basis is compared with them by its
score |1 − sufficiency|: too much is as wrong as too little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.attribution.checking import Checked, really_run
from mechsteer.attribution.crossfit import Repeated, crossfitted, repeated, selected
from mechsteer.attribution.gradients import Recorded
from mechsteer.attribution.replay import Runner
from mechsteer.attribution.selection import Evidence, Selection, evidence, kept, spanned, weighted
from mechsteer.bases import Basis, NullKind, meaningless

N_DRAWS = 200  # of other contexts, to select on


class Comparing:
    """What is done alike with the evidence of a basis and of its nulls."""

    select: Selection
    group_of: np.ndarray
    fold_of: np.ndarray
    sizes: tuple[int, ...]
    draws: Float[Tensor, "n_folds n_draws n_contexts"]  # see `crossfit.redrawn`

    def curve(self, found: Evidence) -> np.ndarray:
        """Cross-fitted sufficiency [n_sizes] by recorded gradients."""
        return crossfitted(found, self.fold_of, self.sizes, self.select).numpy()

    def chosen(self, found: Evidence) -> list[Tensor]:
        """The directions of every fold, selected on the others."""
        return selected(found, self.fold_of, max(self.sizes), self.select)

    def picked(self, found: Evidence) -> Tensor:
        """The directions [1 k] selected on all contexts."""
        ones = torch.ones(1, len(self.fold_of), dtype=torch.float64)
        return self.select(found, ones, max(self.sizes))

    def repeated(self, found: Evidence, chosen: list[Tensor]) -> Repeated:
        """The selection on other contexts (see `crossfit.repeated`)."""
        return repeated(found, self.fold_of, chosen, self.sizes, self.select, self.draws)


@dataclass(frozen=True, eq=False)
class Procedure(Comparing):
    """Everything that is done alike in a basis and in its nulls."""

    recorded: Recorded
    atoms: int
    select: Selection
    group_of: np.ndarray
    fold_of: np.ndarray
    sizes: tuple[int, ...]
    draws: Float[Tensor, "n_folds n_draws n_contexts"]

    def evidence(self, basis: Basis) -> Evidence:
        """What `basis` makes of the recorded gradients."""
        return evidence(self.recorded, basis, self.atoms)

    def span(self, found: Evidence) -> Tensor:
        """Orthonormal rows [k d_model]: the first j span the first j directions of `picked`."""
        return spanned(found, self.picked(found))[0]


@dataclass(frozen=True, eq=False)
class Nulls:
    """What the procedure shows in meaningless bases."""

    recorded: Float[np.ndarray, "n_nulls n_sizes"]  # cross-fitted sufficiency by recorded gradients
    checked: tuple[Checked, ...]  # those really run
    spans: tuple[Tensor, ...]  # [k d_model] of these, selected on all contexts


def run_nulls(
    procedure: Procedure,
    basis: Basis,
    runner: Runner,
    base: np.ndarray,
    rows: np.ndarray,
    n: int,
    n_run: int,
    seed: int,
    *,
    kind: NullKind = "rotated",
    progress: bool = False,
) -> Nulls:
    """`n` meaningless bases by recorded gradients, the first `n_run` also on the contexts `rows`, those of `runner`."""
    curves, checked, spans = [], [], []
    drawn: Iterator[Basis] = meaningless(basis, n, seed, kind=kind)
    for number, null in enumerate(tqdm(drawn, total=n, desc="nulls", disable=not progress, leave=False)):
        found = procedure.evidence(null)
        curves.append(procedure.curve(found))
        if number < n_run:
            chosen = procedure.chosen(found)
            checked.append(really_run(runner, base, found, chosen, procedure.fold_of[rows], procedure.sizes))
            spans.append(procedure.span(found))
    recorded = np.stack(curves) if curves else np.zeros((0, len(procedure.sizes)))
    return Nulls(recorded, tuple(checked), tuple(spans))


def blind(found: Evidence, basis: Basis, sizes: Sequence[int], n: int, seed: int) -> np.ndarray:
    """[n n_sizes] sufficiency, by recorded gradients, of directions picked from the basis at random."""
    directions = basis.directions.double()
    alive = directions.norm(dim=1).nonzero()[:, 0]
    whole = Evidence(alive, directions[alive], found.contributions, found.axes, found.moments, found.is_orthonormal)
    return blind_among(whole, sizes, n, seed)


def blind_among(found: Evidence, sizes: Sequence[int], n: int, seed: int) -> np.ndarray:
    """The same of all candidates of `found`."""
    if not n:
        return np.zeros((0, len(sizes)))
    generator = torch.Generator().manual_seed(seed)
    ones = torch.ones(1, len(found.moments), dtype=torch.float64)
    picks = [torch.randperm(len(found.number), generator=generator)[None, : max(sizes)] for _ in range(n)]
    curves = [kept(found, ones, pick)[0, [size - 1 for size in sizes]] for pick in picks]
    return (torch.stack(curves) / (weighted(found, ones)[0] * found.axes).sum()).numpy()


def rank_p(own: np.ndarray, nulls: np.ndarray) -> np.ndarray:
    """(1 + nulls [n n_sizes] whose |1 − sufficiency| is as small as `own`'s [n_sizes]) / (1 + n); nan without nulls.

    >>> rank_p(np.array([0.9]), np.array([[0.5], [1.05], [1.3]]))
    array([0.5])
    """
    if not len(nulls):
        return np.full(len(own), np.nan)
    return (1 + (np.abs(1 - nulls) <= np.abs(1 - own)).sum(0)) / (1 + len(nulls))
