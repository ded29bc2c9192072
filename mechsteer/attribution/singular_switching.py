"""Triples, maps and layers of singular adapters really switched off, one at a time, and kept on alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.attribution.intervals import half_width
from mechsteer.attribution.singular_parts import Axes, Kept
from mechsteer.attribution.singular_runs import SingularRuns
from mechsteer.results import Interval

LOST = ("lost", "lost_low", "lost_high", "alone", "null_lost", "null_lost_low", "null_lost_high")


@dataclass(frozen=True, eq=False)
class Contexts:
    """The contexts of one attribution, and runs over them."""

    runs: SingularRuns
    base: Float[np.ndarray, " n_prompts"]
    effect: Float[np.ndarray, " n_prompts"]
    group_of: np.ndarray
    fold_of: np.ndarray

    def share(self, effects: np.ndarray) -> Interval:
        """Mean of `effects` [n_prompts] / that of the whole, with a 95 % interval over groups of prompts."""
        rows, fixed = np.arange(len(effects)), np.ones(1)  # nothing was selected
        half = half_width(effects[:, None], rows, self.effect, self.group_of, self.fold_of, fixed)[0]
        value = float(effects.mean() / self.effect.mean())
        return Interval(value=value, low=value - float(half), high=value + float(half))

    def lost(self, left: Kept) -> Interval:
        """The share of the effect that goes when only `left` is on."""
        return self.share(self.effect - (self.runs.run(left) - self.base))

    def alone(self, kept: Kept) -> float:
        """The share of the effect that `kept` has by itself."""
        return self.share(self.runs.run(kept) - self.base).value


def one_by_one(contexts: Contexts, own: Axes, numbers: Sequence[int], null_lost: np.ndarray) -> pd.DataFrame:
    """The columns `lost`, `alone` and `null_lost` of these triples; `null_lost` [n_nulls n_ranks] as found in nulls."""
    records = []
    for rank, number in enumerate(numbers):
        here = torch.tensor([number])
        lost, alone = contexts.lost(own.left(here)), contexts.alone(own.kept(here))
        records.append(_record(lost, alone, null_lost[:, rank]))
    return pd.DataFrame(records, columns=list(LOST))


def parts_frame(
    directions: pd.DataFrame, own: Axes, contexts: Contexts | None, n_random: int = 0, seed: int = 0
) -> pd.DataFrame:
    """One row per map, layer and map of a layer; lost and alone are nan without contexts. See `SingularAttribution`."""
    generator, nulls, records = torch.Generator().manual_seed(seed), {}, []
    for kind, part, rows in _parts(directions):
        numbers = torch.tensor(rows["direction"].tolist())
        told: dict[str, Any] = {
            "kind": kind,
            "part": part,
            "n_dirs": len(rows),
            "share": rows["share"].sum(skipna=False),
        }
        if contexts is not None:
            if len(rows) not in nulls:
                nulls[len(rows)] = _at_random(contexts, own, len(rows), n_random, generator)
            lost, alone = contexts.lost(own.left(numbers)), contexts.alone(own.kept(numbers))
            told |= _record(lost, alone, nulls[len(rows)])
        records.append(told)
    return pd.DataFrame(records, columns=["kind", "part", "n_dirs", "share", *LOST])


def _parts(directions: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    ordered = directions.sort_values("direction")  # adapter after adapter
    for name, rows in ordered.groupby("map", sort=False):
        yield "map", str(name), rows
    for layer, rows in ordered.groupby("layer", sort=True):
        yield "layer", f"layer {layer}", rows
    for name, rows in ordered.groupby(ordered["map"] + "." + ordered["layer"].astype(str), sort=False):
        yield "map of a layer", str(name), rows


def _at_random(contexts: Contexts, own: Axes, size: int, n: int, generator: torch.Generator) -> np.ndarray:
    """[n] what goes with as many triples picked at random."""
    picks: list[Tensor] = [torch.randperm(len(own), generator=generator)[:size] for _ in range(n)]
    return np.array([contexts.lost(own.left(pick)).value for pick in picks])


def _record(lost: Interval, alone: float, null: np.ndarray) -> dict[str, float]:
    band = Interval.from_draws(float(null.mean()) if len(null) else float("nan"), null)
    found = (lost.value, lost.low, lost.high, alone, band.value, band.low, band.high)
    return dict(zip(LOST, found, strict=True))
