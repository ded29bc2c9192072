"""Do the intervals of a sufficiency cover what the directions chosen recover on new contexts?

    python scripts/court_intervals_attribution.py [--repeats 400] [--first-seed 0] [--only TEXT]

Simulated contexts, no model: gradients G_p = mean + noise of one static vector, directions selected by |share| on one
half, checked on the other. The truth is what the two sets chosen, each weighed as it is in the estimate, recover of the
population's effect; of own − null, that less the mean of the same over all the meaningless bases there are.
Beside it what the interval would be if the halves' errors had nothing to do with each other, and the interval that ranks
and checks on the same contexts. Wanted: coverage of 95 % intervals from .93 to .97. Of 16 contexts, or where the effect
itself is hardly beyond chance, it is up to .99: too wide, not too narrow.

Worlds: `orthonormal` and `overcomplete` dictionaries at random; `ties`, in which 24 directions are exactly as good.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mechsteer.attribution.checking import Checked
from mechsteer.attribution.crossfit import redrawn, selected, split
from mechsteer.attribution.gradients import Recorded
from mechsteer.attribution.intervals import half_width
from mechsteer.attribution.nulls import N_DRAWS, Nulls, Procedure
from mechsteer.attribution.selection import Evidence, by_share, coded, gains, spanned
from mechsteer.attribution.tabulating import table
from mechsteer.bases import Basis, from_directions, meaningless
from mechsteer.results import Interval, cluster_weights

D_MODEL, N_DIRS, ATOMS, SIZES = 64, 256, 32, (1, 4, 16)
N_NULLS, ALL_NULLS = 20, 200  # really run in a sample, drawn with replacement from all there are
COVERAGE = (0.93, 0.97)
PRINTED, BEYOND = "these directions", "own − null"
SHOWN = (PRINTED, BEYOND, "halves independent", "the same contexts")
Bounds = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class World:
    """A basis, a vector and the population's mean gradient: truths are algebra."""

    basis: Basis
    vector: Tensor
    mean: Tensor

    def recovered(self, rows: Tensor) -> Tensor:
        """[... n_sizes] of the population's effect by the first of these orthonormal rows [... k d_model]."""
        curve = ((rows @ self.vector) * (rows @ self.mean)).cumsum(-1)
        return curve[..., [k - 1 for k in SIZES]] / (self.vector @ self.mean)


def world(kind: str, seed: int) -> World:
    """No direction is planted in dictionaries at random, so selections differ from sample to sample."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(N_DIRS if kind == "overcomplete" else D_MODEL, D_MODEL, generator=generator, dtype=torch.float64)
    rows = rows if kind == "overcomplete" else torch.linalg.qr(rows)[0]
    vector, mean = torch.randn(2, D_MODEL, generator=generator, dtype=torch.float64)
    if kind == "ties":
        vector, mean = rows[:24].sum(0) + 0.3 * rows[24:].sum(0), rows[:24].sum(0) + 0.2 * rows[24:].sum(0)
    vector = vector / vector.norm()
    mean = mean / mean.norm() + (0 if kind == "ties" else 0.7 * vector)
    return World(from_directions(rows), vector, mean)


def sample(of: World, groups: np.ndarray, noise: float, seed: int) -> Recorded:
    """One context per label of `groups`; half of the noise's variance is shared by a group."""
    generator, n = torch.Generator().manual_seed(seed), len(groups)
    shared, own = torch.randn(2, n, D_MODEL, generator=generator, dtype=torch.float64)
    gradients = of.mean + noise * (shared[torch.as_tensor(groups)] + own) / math.sqrt(2)
    return Recorded(of.vector.expand(n, -1), gradients, torch.arange(n), n, 1)


class Rotated:
    """Meaningless bases of a world, coded once: the vector is the same in every sample."""

    def __init__(self, of: World, seed: int) -> None:
        bases = list(meaningless(of.basis, ALL_NULLS, seed))
        one = Recorded(of.vector[None], of.vector[None], torch.zeros(1, dtype=torch.long), 1, 1)
        self.world, self.is_orthonormal = of, of.basis.is_orthonormal
        self.directions = torch.stack([each.directions.double() for each in bases])
        self.codes = torch.stack([coded(one, torch.arange(1), each, ATOMS)[1] for each in bases])

    def chosen(self, gradients: Tensor, outside: np.ndarray) -> Tensor:
        """Orthonormal rows [n_bases k d_model] of what every basis selects on the contexts `outside`."""
        total = gradients[torch.as_tensor(outside)].sum(0)
        picks = ((self.directions @ total) * self.codes).abs().topk(max(SIZES), dim=1).indices
        rows = self.directions[torch.arange(len(picks))[:, None], picks]
        return rows if self.is_orthonormal else torch.linalg.qr(rows.transpose(1, 2))[0].transpose(1, 2)


def halves(found: Evidence, chosen: list[Tensor], fold_of: np.ndarray) -> np.ndarray:
    """Effect of the part kept of every context by the directions selected without it [n_contexts n_sizes]."""
    kept = [gains(found, pick).cumsum(1)[:, [k - 1 for k in SIZES]].numpy() for pick in chosen]
    return np.stack(kept)[fold_of, np.arange(len(fold_of))]


def whole_check(kept: np.ndarray, effect: np.ndarray) -> Checked:
    return Checked(kept, effect[:, None] - kept, np.ones(len(SIZES)))


def tried(of: World, rotated: Rotated, groups: np.ndarray, noise: float, seed: int) -> dict[str, np.ndarray]:
    """For each of `SHOWN` whether its intervals hold their truths [n_sizes], by the code that `attribute_effect` runs."""
    recorded, n = sample(of, groups, noise, seed), len(groups)
    group_of, fold_of = split(groups.tolist(), n, 2, seed)
    draws = redrawn(group_of, fold_of, N_DRAWS, seed)
    procedure = Procedure(recorded, ATOMS, by_share, group_of, fold_of, SIZES, draws)
    known = procedure.evidence(of.basis)
    chosen = selected(known, fold_of, max(SIZES), by_share)
    kept, effect = halves(known, chosen, fold_of), recorded.linear.numpy()

    shares = np.bincount(fold_of) / n
    each = [share * of.recovered(spanned(known, pick)[0]) for share, pick in zip(shares, chosen, strict=True)]
    true = torch.stack(each).sum(0)
    null_true = torch.zeros(len(SIZES), dtype=torch.float64)
    null_kept, run = np.zeros((N_NULLS, n, len(SIZES))), np.random.default_rng(seed).integers(ALL_NULLS, size=N_NULLS)
    for fold, share in enumerate(shares):
        rows = rotated.chosen(recorded.gradients, fold_of != fold)
        null_true += share * of.recovered(rows).mean(0)
        inside = recorded.gradients[torch.as_tensor(fold_of == fold)]
        parts = (rows[run] @ of.vector)[:, None] * (inside @ rows[run].transpose(1, 2))
        null_kept[:, fold_of == fold] = parts.cumsum(2)[..., [k - 1 for k in SIZES]].numpy()
    checked = tuple(whole_check(each, effect) for each in null_kept)
    nothing, everything = np.zeros((0, len(SIZES))), np.arange(n)
    rows = table(
        procedure, known, chosen, whole_check(kept, effect), effect, Nulls(nothing, checked, ()), everything, nothing
    )
    apart = half_width(kept, everything, effect, group_of, fold_of, np.ones(len(SIZES)))
    share = kept.mean(0) / effect.mean()
    pick = procedure.picked(known)
    return {
        PRINTED: _holds(_bounds(rows, "sufficiency"), true),
        BEYOND: _holds(_bounds(rows, "beyond_null"), true - null_true),
        "halves independent": _holds((share - apart, share + apart), true),
        "the same contexts": _holds(
            on_the_same(known, pick, effect, group_of, seed), of.recovered(spanned(known, pick)[0])
        ),
    }


def on_the_same(known: Evidence, pick: Tensor, effect: np.ndarray, group_of: np.ndarray, seed: int) -> Bounds:
    """Ranked and checked on the same contexts: what much of the literature prints."""
    kept = gains(known, pick).cumsum(1)[:, [k - 1 for k in SIZES]].numpy()
    weights = cluster_weights(group_of.max() + 1, 1000, np.random.default_rng(seed))[:, group_of]
    draws = (weights @ kept) / (weights @ effect)[:, None]
    intervals = [Interval.from_draws(0.0, column) for column in draws.T]
    return np.asarray([i.low for i in intervals]), np.asarray([i.high for i in intervals])


def _bounds(rows: pd.DataFrame, name: str) -> Bounds:
    return rows[f"{name}_low"].to_numpy(float), rows[f"{name}_high"].to_numpy(float)


def _holds(bounds: Bounds, true: Tensor) -> np.ndarray:
    return (bounds[0] <= true.numpy()) & (true.numpy() <= bounds[1])


def verdict(share: float, repeats: int) -> str:
    """Like the verdicts of `court_intervals`: "unsure" is outside by no more than two Monte-Carlo errors."""
    off = max(COVERAGE[0] - share, share - COVERAGE[1])
    error = math.sqrt(max(share * (1 - share), 0.25 / repeats) / repeats)
    return "met" if off <= 0 else "unsure" if off <= 2 * error else "missed"


def cells() -> dict[str, tuple[str, np.ndarray, float]]:
    """Name: (world, group of every context, noise)."""
    problems = np.repeat(np.arange(24), [1, 2, 3, 4, 5, 1] * 4)
    found = {
        f"{kind}, {n} contexts, noise {noise}": (kind, np.arange(n), noise)
        for kind in ("orthonormal", "overcomplete", "ties")
        for n, noise in ((16, 0.5), (32, 0.5), (64, 0.2), (64, 0.5), (300, 0.5))
    }
    grouped = {
        f"{kind}, {len(problems)} contexts of 24 problems, noise 0.5": (kind, problems, 0.5)
        for kind in ("orthonormal", "overcomplete")
    }
    return found | grouped


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--first-seed", type=int, default=0, help="development uses other ones than the table")
    parser.add_argument("--only", default="", metavar="TEXT", help="cells whose name holds it")
    arguments = parser.parse_args(argv)
    repeats, first = arguments.repeats, arguments.first_seed
    torch.set_num_threads(1)
    error, begun = math.sqrt(0.95 * 0.05 / repeats), time.perf_counter()
    print(f"coverage of 95 % intervals at k = {', '.join(map(str, SIZES))}; {repeats} samples each, ± {error:.3f}")
    print(f"{'':48}" + "".join(f"{name:>22}" for name in SHOWN))
    judged: dict[str, list[str]] = {PRINTED: [], BEYOND: []}
    for name, (kind, groups, noise) in cells().items():
        if arguments.only not in name:
            continue
        of = world(kind, seed=first + len(groups))
        rotated = Rotated(of, first)
        found = [tried(of, rotated, groups, noise, first + repeat) for repeat in range(repeats)]
        shares = {key: np.mean([each[key] for each in found], axis=0) for key in SHOWN}
        told = "".join(f"{'  '.join(f'{share:.3f}' for share in shares[key]):>22}" for key in SHOWN)
        print(f"{name:48}{told}", flush=True)
        for key, verdicts in judged.items():
            verdicts += [verdict(float(share), repeats) for share in shares[key]]
    for key, verdicts in judged.items():
        counts = ", ".join(f"{verdicts.count(word)} {word}" for word in ("met", "unsure", "missed"))
        print(f"{key}, wanted {COVERAGE[0]}-{COVERAGE[1]}: {counts}")
    print(f"{time.perf_counter() - begun:.0f} s, {time.process_time():.0f} s of the processor")


if __name__ == "__main__":
    main()
