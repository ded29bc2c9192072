"""Do the named nodes and edges carry the effect when the model really runs? Curves over k beside random sets.

Sufficiency of a set: the share of the effect that is left when nothing else answers the intervention. Necessity: the
share that goes when the set does not answer. Prompts are halved: what is ranked on one half is checked on the other,
both ways, so a set is never rewarded for the noise that it was chosen by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.attribution.path_runs import PathRuns
from mechsteer.attribution.replay import Runner
from mechsteer.results import Interval

MEASURED = ("sufficiency", "necessity")
Draw = Callable[[int, torch.Generator], Tensor]  # k members at random, as numbers
Run = Callable[[PathRuns, Tensor], Tensor]  # metric [batch] where members [batch n_members] alone answer


@dataclass(frozen=True, eq=False)
class Members:
    """What can be named: nodes, or edges."""

    effects: Tensor  # [n_prompts n_members]
    run: Run
    draw: Draw

    @property
    def order(self) -> Tensor:
        """By falling size of the mean effect."""
        return _ranked(self.effects)


@dataclass(frozen=True, eq=False)
class Shares:
    """Effects of runs as shares of the whole, with bootstrap intervals over prompts."""

    runner: Runner
    runs: Sequence[PathRuns]
    base: np.ndarray
    effect: np.ndarray  # of the whole intervention on each prompt
    draws: np.ndarray  # [n_bootstrap n_prompts] weights of bootstrap resamples

    def of(self, effect: np.ndarray, *, lost: bool = False) -> Interval:
        """Share of the whole effect; `lost`: what is missing of it."""
        value = effect.mean() / self.effect.mean()
        drawn = (self.draws @ effect) / (self.draws @ self.effect)
        return Interval.from_draws(1 - value, 1 - drawn) if lost else Interval.from_draws(value, drawn)

    def measured(self, run: Callable[[PathRuns], Tensor]) -> np.ndarray:
        """[n_prompts] effects of runs, one per batch."""
        return self.runner.in_order([run(each) for each in self.runs]).numpy() - self.base


def halves(n_prompts: int, seed: int) -> Tensor:
    """[n_prompts] True in one half."""
    order = torch.randperm(n_prompts, generator=torch.Generator().manual_seed(seed))
    first = torch.zeros(n_prompts, dtype=torch.bool)
    first[order[: n_prompts // 2]] = True
    return first


def curve(
    members: Members, shares: Shares, sizes: Sequence[int], n_random: int, first: Tensor, seed: int, bar: tqdm
) -> pd.DataFrame:
    """One row per k: sufficiency and necessity of the top k with intervals, and of `n_random` random sets of k.

    Random sets are the same for all prompts; their _low and _high are the 95 % range of the draws.
    """
    n = members.effects.shape[1]
    order = torch.stack([_ranked(members.effects[~half]) for half in (first, ~first)])  # of each half: by the other's
    which = torch.where(first, 0, 1)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for k in sorted({min(size, n) for size in sizes}):
        chosen = torch.zeros(2, n, dtype=torch.bool).scatter_(1, order[:, :k], value=True)[which]
        row: dict[str, float] = {"k": k}
        for name, effect in _both(members, shares, chosen).items():
            row |= _cells(name, shares.of(effect, lost=name == "necessity"))
        bar.update(2)
        random: dict[str, list[float]] = {name: [] for name in MEASURED}
        for _ in range(n_random):
            chosen = torch.zeros(n, dtype=torch.bool)
            chosen[members.draw(k, generator)] = True
            for name, effect in _both(members, shares, chosen.expand(len(first), -1)).items():
                random[name].append(shares.of(effect, lost=name == "necessity").value)
            bar.update(2)
        for name, values in random.items():
            row |= _cells(f"random_{name}", Interval.from_draws(float(np.mean(values)), np.asarray(values)))
        rows.append(row)
    return pd.DataFrame(rows)


def lost(members: Members, shares: Shares, n_named: int, bar: tqdm) -> dict[int, Interval]:
    """member -> the share of the effect that goes when it alone does not answer, for the first of `members.order`."""
    found = {}
    for member in members.order[:n_named].tolist():
        chosen = torch.zeros(members.effects.shape, dtype=torch.bool)
        chosen[:, member] = True
        found[member] = shares.of(_both(members, shares, chosen, ("necessity",))["necessity"], lost=True)
        bar.update(1)
    return found


def _both(members: Members, shares: Shares, chosen: Tensor, names: Sequence[str] = MEASURED) -> dict[str, np.ndarray]:
    """Effects [n_prompts] with `chosen` [n_prompts n_members] alone, and with all but these."""
    sets = {"sufficiency": chosen, "necessity": ~chosen}
    return {
        name: shares.measured(lambda each, name=name: members.run(each, sets[name][each.each.batch.rows.cpu()]))
        for name in names
    }


def _ranked(effects: Tensor) -> Tensor:
    return torch.argsort(effects.mean(0).abs(), descending=True, stable=True)


def _cells(name: str, value: Interval) -> dict[str, float]:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
