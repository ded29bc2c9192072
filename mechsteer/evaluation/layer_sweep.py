"""One direction at every layer and strength: what each cell scores, beside the same sweep of random directions.

The best cell of a sweep is chosen among many, so that it beats base by chance more often than a single one would, and
its interval does not know of the choice. What it is to be held against is therefore the best cell of the same sweep
of a random direction of equal norm: p = (1 + the number of random directions whose best cell scores at least as
well) / (1 + their number), which is exact where the direction is exchangeable with them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from mechsteer.adapters import Static
from mechsteer.directions import Direction, random_direction
from mechsteer.errors import ConfigError
from mechsteer.evaluation.arms import Arm
from mechsteer.evaluation.paired import compare_paired, compare_scores
from mechsteer.evaluation.scoring import Keep, Scored, Scoring, at_once
from mechsteer.models.sites import Site
from mechsteer.results import Interval, Result
from mechsteer.runtime.scopes import TokenScope
from mechsteer.shapes import Vector
from mechsteer.steering.interventions import Intervention
from mechsteer.steering.shared_prompts import leave_prompts_alone, sharing_prompts
from mechsteer.tasks import Item


@dataclass(frozen=True, kw_only=True)
class SweepCell(Result):
    """A direction at one site with one coefficient."""

    site: str
    coeff: float
    score: float
    """mean over the items"""
    difference: Interval
    """score − base's, paired by item, 95 %"""
    p_value: float
    """two-sided, of this cell alone"""


@dataclass(frozen=True, kw_only=True)
class StrengthSweep(Result):
    """All cells of a sweep, site by site and within a site by coefficient; the same of each random direction."""

    metric: str
    unit: str
    n_items: int
    norm: float
    """of the direction at coefficient 1"""
    base_score: float
    cells: tuple[SweepCell, ...]
    random: tuple[tuple[SweepCell, ...], ...] = ()
    """per random direction of the same norm its cells, in the same order"""

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.site for cell in self.cells))

    @property
    def coeffs(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys(cell.coeff for cell in self.cells))

    @property
    def best(self) -> SweepCell:
        """The cell with the highest score, of equal ones the first. Chosen: hold it against `best_of_random`."""
        return max(self.cells, key=lambda cell: cell.score)

    @property
    def best_of_random(self) -> tuple[SweepCell, ...]:
        """The best cell of each random direction, chosen in the same way."""
        return tuple(max(cells, key=lambda cell: cell.score) for cells in self.random)

    @property
    def p_best(self) -> float:
        """(1 + random directions whose best cell scores at least as well) / (1 + their number); nan without any."""
        if not self.random:
            return math.nan
        return (1 + sum(cell.score >= self.best.score for cell in self.best_of_random)) / (1 + len(self.random))

    def grid(self, what: str = "difference", *, random: int | None = None) -> pd.DataFrame:
        """Sites x coefficients of the direction, or of one of the `random` ones.

        `what`: "score", "difference", "low" or "high" (of the difference), "p_value".
        """
        cells = self.cells if random is None else self.random[random]
        read = {"difference": lambda c: c.difference.value, "low": lambda c: c.difference.low}
        read |= {"high": lambda c: c.difference.high, "score": lambda c: c.score, "p_value": lambda c: c.p_value}
        if what not in read:
            raise ConfigError(f"a sweep has no {what!r}", f"choose one of {list(read)}")
        values = np.array([read[what](cell) for cell in cells]).reshape(len(self.sites), len(self.coeffs))
        return pd.DataFrame(
            values, index=pd.Index(self.sites, name="site"), columns=pd.Index(self.coeffs, name="coeff")
        )

    def frame(self) -> pd.DataFrame:
        """One row per cell: direction ("base", "own", "random 1", ...), site, coeff, score, difference, low, high, p."""
        rows: list[dict[str, Any]] = [
            {"direction": "base", "site": "", "coeff": 0.0, "score": self.base_score, "difference": 0.0}
            | {"difference_low": 0.0, "difference_high": 0.0, "p_value": math.nan}
        ]
        named = [("own", self.cells), *((f"random {i}", cells) for i, cells in enumerate(self.random, start=1))]
        for name, cells in named:
            for c in cells:
                d = c.difference
                row = {"direction": name, "site": c.site, "coeff": c.coeff, "score": c.score, "difference": d.value}
                rows.append(row | {"difference_low": d.low, "difference_high": d.high, "p_value": c.p_value})
        return pd.DataFrame(rows)


def sweep(
    model: Any,
    direction: Direction | Vector,
    layers: Sequence[float | Site],
    coeffs: Sequence[float],
    scoring: Scoring,
    items: Sequence[Item],
    *,
    point: str = "resid_post",
    scope: TokenScope | None = None,
    n_random: int = 3,
    seed: int = 0,
    n_boot: int = 2000,
    keep: Keep = at_once,
    progress: bool = False,
) -> StrengthSweep:
    """Add `direction` at each of `layers` (numbers, depths below 1, or sites) times each of `coeffs`; score all cells.

    Base is scored once, on the same items, and so is the same sweep of `n_random` random directions of the same norm
    (each one the same at all layers), which the best cell is to be held against. `point`: of the layers that are
    numbers; `scope`: default every token. `keep(name, compute)` may return what an earlier run kept.

    A notebook shows the result as a picture, `frame()` is a table of all cells, `save("sweep.html")` writes it.
    Raises ConfigError (no layers, coefficients or items, or the same twice), and what `scoring` raises.
    """
    sites = [layer if isinstance(layer, Site) else Site(layer, point) for layer in layers]
    sites = [site.at(model) for site in sites]
    _check(sites, coeffs, items, n_random)
    over = TokenScope.all() if scope is None else scope
    own = direction.vector if isinstance(direction, Direction) else torch.as_tensor(direction)
    drawn = [random_direction(own, torch.Generator().manual_seed(1_000_003 * seed + i)) for i in range(n_random)]
    places = [(site, float(coeff)) for site in sites for coeff in coeffs]
    arms = {
        (name, str(site), coeff): Arm(
            name=f"sweep, {name}, {site}, {coeff:g}",
            steering=Intervention(Static(vector), site, scope=over, coeff=coeff),
        )
        for name, vector in [("own", own), *((f"random {i}", each.vector) for i, each in enumerate(drawn, start=1))]
        for site, coeff in places
    }
    shares = all(leave_prompts_alone(arm.steering) for arm in arms.values())
    with sharing_prompts() if shares else contextlib.nullcontext():
        base = scoring.score(model, Arm(name="sweep, base", role="base"), items, keep=keep, progress=progress)
        scored = {key: scoring.score(model, arm, items, keep=keep, progress=progress) for key, arm in arms.items()}

    def cells(name: str) -> tuple[SweepCell, ...]:
        return tuple(
            _cell(str(site), coeff, base, scored[name, str(site), coeff], n_boot, seed) for site, coeff in places
        )

    return StrengthSweep(
        metric=scoring.metric,
        unit=scoring.unit,
        n_items=len(items),
        norm=float(own.norm()),
        base_score=base.score,
        cells=cells("own"),
        random=tuple(cells(f"random {i}") for i in range(1, n_random + 1)),
    )


def _cell(site: str, coeff: float, base: Scored, after: Scored, n_boot: int, seed: int) -> SweepCell:
    compare = compare_paired if after.scores.dtype == bool else compare_scores
    found = compare(base.scores, after.scores, np.array(after.groups), n_boot=n_boot, seed=seed)
    return SweepCell(site=site, coeff=coeff, score=after.score, difference=found.difference, p_value=found.p_value)


def _check(sites: Sequence[Site], coeffs: Sequence[float], items: Sequence[Item], n_random: int) -> None:
    if not sites or not coeffs or not items:
        raise ConfigError(
            f"a sweep of {len(sites)} layers, {len(coeffs)} coefficients and {len(items)} items is empty",
            "give at least one of each",
        )
    if len(set(sites)) < len(sites) or len(set(coeffs)) < len(coeffs):
        raise ConfigError(
            f"a sweep over {[str(site) for site in sites]} and {list(coeffs)} has a cell twice", "name each once"
        )
    if not all(math.isfinite(coeff) for coeff in coeffs) or n_random < 0:
        raise ConfigError(f"coeffs={list(coeffs)}, n_random={n_random}", "give finite numbers, and 0 or more")
