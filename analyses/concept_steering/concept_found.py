"""What the texts of a model say about each claim: cells are chosen on one half of the prompts and reported on the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from common import Finding, pooled
from concept_texts import CHOOSING, EXAMPLES, HELD_OUT, Grid, Writer
from numpy import ndarray
from scipy.special import expit, logit
from scipy.stats import binomtest

from mechsteer.concepts import NEUTRAL

WORKS = 0.2  # more texts than unsteered that have to show a concept, on the prompts that cells are chosen on, to be added up
PAIRS = (
    *(("happy", "pirate"), ("sad", "formal"), ("angry", "casual"), ("fearful", "poetic"), ("excited", "technical")),
    *(("calm", "shakespeare"), ("enthusiastic", "pirate"), ("pessimistic", "formal"), ("confident", "casual")),
    *(("happy", "brief"), ("sad", "verbose")),
)
N_BOOT = 2000


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The best cell among some layers by the prompts that cells are chosen on."""

    layer: int
    share: int
    """which strength"""
    held_out: float
    """share of the other texts that show the concept"""


def choose(shown: ndarray, layers: Sequence[int]) -> Chosen:
    """Of equally good cells the weakest, then the lowest layer. `shown` [n_layers n_shares n_prompts]."""
    scores = shown[:, :, CHOOSING].mean(2)
    share, layer = max(
        itertools.product(range(shown.shape[1]), layers),
        key=lambda cell: (scores[cell[1], cell[0]], -cell[0], -cell[1]),
    )
    return Chosen(layer=layer, share=share, held_out=float(shown[layer, share, HELD_OUT].mean()))


def middle_third(n_layers: int) -> list[int]:
    """Layers whose middle lies between a third and two thirds of the depth."""
    return [layer for layer in range(n_layers) if 1 / 3 <= (layer + 0.5) / n_layers < 2 / 3]


def breaking_share(broken: ndarray, shares: Sequence[float]) -> float:
    """The share of the residual's norm at which half of the texts break, log-linear between strengths; the first or the last
    strength where it lies outside. `broken` [n_shares]."""
    for i, share in enumerate(broken):
        if share >= 0.5:
            if i == 0:
                return shares[0]
            part = (0.5 - broken[i - 1]) / (share - broken[i - 1])
            return float(shares[i - 1] * (shares[i] / shares[i - 1]) ** part)
    return shares[-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What a writer's texts say, seed by seed."""

    of: Writer

    @cached_property
    def grids(self) -> list[dict[str, Grid]]:
        found = {each.name: self.of.grid(each) for each in self.of.concepts}
        return [{name: grids[seed] for name, grids in found.items()} for seed in self.of.seeds]

    @cached_property
    def randoms(self) -> list[dict[str, ndarray]]:
        return [self.of.random(seed) for seed in self.of.seeds]

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.of.concepts]

    @cached_property
    def chosen(self) -> list[dict[str, Chosen]]:
        """By seed and concept, among all cells."""
        every = range(self.of.n_layers)
        return [{name: choose(grid.shown, every) for name, grid in grids.items()} for grids in self.grids]

    def by_concept(self, value: Callable[[int, str], float], null: str) -> Finding:
        """A value of every concept in every seed: mean, with the spread of concepts and of seeds."""
        values = np.array([[value(seed, name) for name in self.names] for seed in self.of.seeds])
        return spread(values, null)

    # -- claims ------------------------------------------------------------------------------------------------

    def shows(self) -> Finding:
        every = range(self.of.n_layers)

        def by_chance(seed: int, name: str) -> float:
            return float(np.mean([choose(one, every).held_out for one in self.randoms[seed][name]]))

        strongest = max(
            float(np.mean([[choose(one, every).held_out for one in of[name]] for name in self.names], axis=0).max())
            for of in self.randoms
        )
        return self.by_concept(
            lambda seed, name: self.chosen[seed][name].held_out - by_chance(seed, name),
            f"random directions chosen alike: the strongest shows concepts in {strongest:.2f} of texts",
        )

    def middle(self) -> Finding:
        inside = middle_third(self.of.n_layers)
        outside = [layer for layer in range(self.of.n_layers) if layer not in inside]

        def more(seed: int, name: str) -> float:
            shown = self.grids[seed][name].shown
            return choose(shown, inside).held_out - choose(shown, outside).held_out

        said = f"the best cell of the other layers; middle layers are {inside} of {self.of.n_layers}"
        return self.by_concept(more, said)

    def whole(self) -> Finding:
        def broken(seed: int, name: str) -> float:
            cell = self.chosen[seed][name]
            return float(self.grids[seed][name].broken[cell.layer, cell.share, HELD_OUT].mean())

        return self.by_concept(broken, "the model's own texts: .05")

    def breaking(self, seed: int, name: str, layer: int) -> float:
        """See `breaking_share`; of all prompts, as nothing is chosen."""
        return breaking_share(self.grids[seed][name].broken[layer].mean(1), self.of.shares)

    def same_share(self) -> Finding:
        def ratio(seed: int, name: str) -> float:
            found = [self.breaking(seed, name, layer) for layer in range(self.of.n_layers)]
            return math.log2(max(found) / min(found))

        most = math.log2(self.of.shares[-1] / self.of.shares[0])
        return self.by_concept(ratio, f"the same share: 0; the strengths span {most:.1f}")

    def prompting(self) -> Finding:
        ways = [f"{n} examples" for n in EXAMPLES] + ["its name"]
        taken: list[str] = []

        def more(seed: int, name: str) -> float:
            shown = self.of.prompted(self.of.concepts[self.names.index(name)], seed)
            best = int(shown[:, CHOOSING].mean(1).argmax())
            taken.append(ways[best])
            return float(shown[best, HELD_OUT].mean()) - self.chosen[seed][name].held_out

        found = self.by_concept(more, "")
        often = ", ".join(f"{way} {taken.count(way)}" for way in ways)
        return Finding(
            value=found.value, low=found.low, high=found.high, n_seeds=found.n_seeds, null=f"ways chosen: {often}"
        )

    def known(self) -> Finding:
        checks = self.of.checks()
        n = sum(each.knows for each in checks)
        interval = binomtest(n, len(checks)).proportion_ci(method="wilson")
        unknown = ", ".join(each.name for each in checks if not each.knows) or "none"
        null = f"unknown: {unknown}"
        return Finding(value=n / len(checks), low=float(interval.low), high=float(interval.high), n_seeds=1, null=null)

    # -- sums --------------------------------------------------------------------------------------------------

    def coeff(self, seed: int, name: str) -> float | None:
        """At the middle layer, the weakest strength that works; None where none does. The best leaves no room for a second."""
        grid, layer = self.grids[seed][name], self.of.middle
        more = grid.shown[layer][:, CHOOSING].mean(1) - self.of.base(seed)[name][CHOOSING].mean()
        working = np.flatnonzero(more >= WORKS)
        return float(grid.raw[layer, working[0]]) if len(working) else None

    def sums(self) -> tuple[Finding, Finding, list[dict[str, Any]]]:
        """(linear?, no worse than a random vector?, a row per seed, sum and part)."""
        rows = [row for seed, pair in itertools.product(self.of.seeds, PAIRS) for row in self._sum(seed, pair)]
        observed, foretold, chance = (
            np.array([row[key] for row in rows]) for key in ("under the sum", "foretold", "with a random vector")
        )
        varies = len(rows) > 2 and min(observed.std(), foretold.std()) > 0
        correlation = np.corrcoef(observed, foretold)[0, 1] if varies else math.nan
        said = f"{len(rows)} parts of sums; correlation of foretold and seen {correlation:.2f}; alone {_mean(rows, 'alone'):.2f}"
        linear = self._of_rows(rows, observed - foretold, said)
        said = f"a random vector as long: {_mean(rows, 'with a random vector'):.2f} of texts"
        return linear, self._of_rows(rows, observed - chance, said), rows

    def _sum(self, seed: int, pair: tuple[str, str]) -> list[dict[str, Any]]:
        """Both parts of a + b; none where one of the two does not work alone."""
        parts = [(name, coeff) for name in pair if name in self.names and (coeff := self.coeff(seed, name)) is not None]
        if len(parts) < 2:
            return []
        nothing, both = self.of.mixed((), seed), self.of.mixed(parts, seed)
        rows = []
        for part, other in (parts, reversed(parts)):
            name = part[0]
            alone = self.of.mixed((part,), seed)[name]
            shares = (alone, self.of.mixed((other,), seed)[name], nothing[name])
            own, others, base = (_logit(share, self._n) for share in shares)
            rows.append(
                {
                    "seed": seed,
                    "sum": " + ".join(pair),
                    "shows": name,
                    "alone": alone,
                    "under the sum": both[name],
                    "foretold": float(expit(own + others - base)),
                    "with a random vector": self.of.mixed((part, other), seed, second_random=True)[name],
                }
            )
        return rows

    def less(self) -> Finding:
        """a - its opposite, scaled to the length of a."""
        rows, values = [], []
        for seed, each in itertools.product(self.of.seeds, self.of.concepts):
            coeff = self.coeff(seed, each.name)
            if coeff is None or each.opposite not in self.names:
                continue
            a, b = (self.of.vectors[name, self.of.middle].vector for name in (each.name, each.opposite))
            scale = coeff * float(a.norm() / (a - b).norm())
            alone = self.of.mixed(((each.name, coeff),), seed)[each.name]
            values.append(self.of.mixed(((each.name, scale), (each.opposite, -scale)), seed)[each.name] - alone)
            rows.append({"seed": seed, "sum": each.name, "alone": alone})
        return self._of_rows(
            rows, np.array(values), f"alone: {_mean(rows, 'alone'):.2f} of texts, {len(rows)} concepts and seeds"
        )

    @property
    def _n(self) -> int:
        return len(NEUTRAL[HELD_OUT]) * self.of.settings["n_repeats"]

    def _of_rows(self, rows: Sequence[dict[str, Any]], values: ndarray, null: str) -> Finding:
        """Mean over rows, whose sums are what varies; and over seeds."""
        per_seed = []
        for seed in self.of.seeds:
            at = [i for i, row in enumerate(rows) if row["seed"] == seed]
            sums = sorted({rows[i]["sum"] for i in at})
            means = np.array([np.mean([values[i] for i in at if rows[i]["sum"] == name]) for name in sums])
            if len(means) > 1:
                per_seed.append((float(means.mean()), float(means.std(ddof=1) / math.sqrt(len(means)))))
        if len(per_seed) < len(self.of.seeds):
            return Finding(
                value=math.nan, low=math.nan, high=math.nan, n_seeds=len(per_seed), null="too few concepts work"
            )
        return pooled(per_seed, len(per_seed), null)


def carried_over(one: Reading, other: Reading) -> tuple[Finding, Finding]:
    """(does a raw strength carry over?, does a share do so better?), where half of the texts break, at the middle layers."""
    raw, more = [], []
    for seed in one.of.seeds:
        ratios = []
        for name in one.names:
            shares = [reading.breaking(seed, name, reading.of.middle) for reading in (one, other)]
            raws = [r.of.raw(name, r.of.middle, share) for r, share in zip((one, other), shares, strict=True)]
            ratios.append((abs(math.log2(raws[0] / raws[1])), abs(math.log2(shares[0] / shares[1]))))
        found = np.array(ratios)
        raw.append(found[:, 0])
        more.append(found[:, 0] - found[:, 1])
    said = f"shares: {float(np.mean(np.array(raw) - np.array(more))):.2f}"
    return spread(np.array(raw), said), spread(np.array(more), "no better: 0")


def spread(values: ndarray, null: str) -> Finding:
    """Mean of values [n_seeds n_concepts]: concepts vary within a seed, the same ones in all of them."""
    n_seeds, n_concepts = values.shape
    per_seed = [(float(row.mean()), float(row.std(ddof=1) / math.sqrt(n_concepts))) for row in values]
    return pooled(per_seed, n_seeds, null)


def _logit(share: float, n: int) -> float:
    """With half a text more of each, so that 0 and 1 are finite."""
    return float(logit((share * n + 0.5) / (n + 1)))


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.mean([row[key] for row in rows])) if rows else math.nan


def table(reading: Reading) -> list[dict[str, Any]]:
    """A row per concept: its check, its best cells, its rivals, means over seeds."""
    rows = []
    for check in reading.of.checks():
        name, seeds = check.name, range(len(reading.chosen))
        cells = [reading.chosen[seed][name] for seed in seeds]
        raws = [reading.grids[seed][name].raw[cell.layer, cell.share] for seed, cell in zip(seeds, cells, strict=True)]
        rows.append(
            {
                "concept": name,
                "known": "yes" if check.knows else check.reason,
                "base": float(np.mean([reading.of.base(seed)[name].mean() for seed in reading.of.seeds])),
                "steered": float(np.mean([cell.held_out for cell in cells])),
                "layers": " ".join(str(cell.layer) for cell in cells),
                "shares": " ".join(f"{reading.of.shares[cell.share]:g}" for cell in cells),
                "raw": " ".join(f"{raw:.2f}" for raw in raws),
                "text breaks at": float(np.mean([reading.breaking(seed, name, reading.of.middle) for seed in seeds])),
            }
        )
    return rows


def by_layer(reading: Reading) -> list[dict[str, Any]]:
    """A row per layer and strength: shares of texts that show their concept and of those that break, means of all prompts."""
    every = [grid for of in reading.grids for grid in of.values()]
    chance = np.mean([np.mean([of[name] for name in reading.names], axis=(0, 1)) for of in reading.randoms], axis=0)
    return [
        {
            "layer": layer,
            "share of the residual": share,
            "shown": float(np.mean([grid.shown[layer, i] for grid in every])),
            "random": float(chance[layer, i].mean()),
            "broken": float(np.mean([grid.broken[layer, i] for grid in every])),
        }
        for layer, (i, share) in itertools.product(range(reading.of.n_layers), enumerate(reading.of.shares))
    ]
