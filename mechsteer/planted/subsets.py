"""Truth by subset interventions: the model is run with any part of a delta, and that is all that is believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import Any

import torch
from torch import Tensor

from mechsteer.attribution.metrics import Metric
from mechsteer.attribution.replay import prepare
from mechsteer.errors import ConfigError
from mechsteer.planted.planted import Truth
from mechsteer.steering.interventions import Intervention

MOST_PLAYERS = 10  # 2 ** 10 runs


class Subsets:
    """The delta of an intervention taken apart: delta_t = Σ_i c_ti part_i + rest_t, c by least squares at every token.

    `parts` [n d_model] are independent. Raises what `attribute_effect` raises for the same arguments.
    """

    def __init__(
        self, model: Any, iv: Intervention, contexts: Sequence[Sequence[int]], metric: Metric, parts: Tensor
    ) -> None:
        self._runner = prepare(model, iv, contexts, None, metric, None, len(contexts))
        self._base = self._runner.gather("base")
        self.effect = self._runner.gather("steered") - self._base  # [n_contexts]
        rows, inverse = parts.double(), torch.linalg.pinv(parts.double())
        self._parts, self._rest = [], []
        for each in self._runner.batches:
            delta = each.delta.double()
            pieces = torch.einsum("bpd,dn->nbp", delta, inverse)[..., None] * rows[:, None, None]
            self._parts.append(pieces)
            self._rest.append(delta - pieces.sum(0))

    @property
    def total(self) -> float:
        """Mean effect of the whole delta."""
        return float(self.effect.mean())

    def alone(self, kept: Sequence[int], *, rest: bool = False) -> float:
        """Mean effect of these parts alone, with the rest of the delta or without."""
        edited = []
        for each, pieces, left in zip(self._runner.batches, self._parts, self._rest, strict=True):
            delta = pieces[list(kept)].sum(0) + (left if rest else 0)
            edited.append(delta.to(each.delta.dtype))
        return float((self._runner.run(edited) - self._base).mean())

    def span(self, directions: Tensor) -> float:
        """Mean effect of the delta projected on the span of these directions [n d_model]."""
        _, s, vh = torch.linalg.svd(directions.double(), full_matrices=False)
        axes = vh[s > 1e-6 * s.max()]
        edited = [(each.delta.double() @ axes.T @ axes).to(each.delta.dtype) for each in self._runner.batches]
        return float((self._runner.run(edited) - self._base).mean())


def exact_shapley(value: Callable[[tuple[int, ...]], float], n_players: int) -> Tensor:
    """Shapley values [n_players] of `value`, a function of a sorted tuple of players; 2^n_players calls.

    φ_i = Σ_S |S|! (n − 1 − |S|)! / n! · (value(S + i) − value(S))   (Shapley 1953)

    Raises ConfigError for more than 10 players.
    """
    if n_players > MOST_PLAYERS:
        raise ConfigError(f"{n_players} players", f"exact values are for up to {MOST_PLAYERS}")
    players = range(n_players)
    subsets = chain.from_iterable(combinations(players, size) for size in range(n_players + 1))
    values = {subset: value(subset) for subset in subsets}
    found = torch.zeros(n_players, dtype=torch.float64)
    for subset, without in values.items():
        weight = (
            math.factorial(len(subset)) * math.factorial(n_players - 1 - len(subset)) if subset != (*players,) else 0
        )
        for i in set(players).difference(subset):
            found[i] += weight * (values[tuple(sorted((*subset, i)))] - without)
    return found / math.factorial(n_players)


def measure(
    model: Any, iv: Intervention, contexts: Sequence[Sequence[int]], metric: Metric, planted: Tensor, decoys: Tensor
) -> Truth:
    """The truth about the parts `planted` [n_planted d_model] and `decoys` [n_decoys d_model] of an intervention's delta."""
    n, m = len(planted), len(decoys)
    subsets = Subsets(model, iv, contexts, metric, torch.cat([planted, decoys]))
    parts = set(range(n + m))
    others = range(n, n + m)

    def value(players: tuple[int, ...]) -> float:
        if not players:
            return 0.0
        is_whole = n in players  # the last player: decoys, and what no part explains
        return subsets.alone([*(p for p in players if p < n), *(others if is_whole else ())], rest=is_whole)

    shapley = exact_shapley(value, n + 1)
    alone = [subsets.alone([i]) for i in range(n + m)]
    removed = [subsets.total - subsets.alone(sorted(parts - {i}), rest=True) for i in range(n + m)]
    return Truth(
        total=subsets.total,
        alone=torch.tensor(alone[:n], dtype=torch.float64),
        removed=torch.tensor(removed[:n], dtype=torch.float64),
        shapley=shapley[:n],
        others=float(shapley[n]),
        decoys_alone=torch.tensor(alone[n:], dtype=torch.float64),
        decoys_removed=torch.tensor(removed[n:], dtype=torch.float64),
    )
