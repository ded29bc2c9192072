"""Do the intervals of a sufficiency cover what the procedure recovers on new contexts?

    python scripts/court_intervals_attribution.py [--repeats 120]

Simulated contexts, no model: gradients G_p = mean + noise of one static vector, directions selected by |share| on one
half, checked on the other. The truth is what a selection from as many contexts recovers of the population's effect,
averaged over many selections. Beside it the interval that ranks and checks on the same contexts.

Intervals are wide where the true selection hardly varies (a resample swaps what new contexts would not) and narrow at
near ties, so no one factor helps. Tried on other worlds, and left, since fewer cells come within .93-.97: weights closer
to 1 with deviations scaled up (swaps are jumps: the smaller the step, the larger the estimate), resamples of half or a
quarter of the contexts with deviations scaled down, the variance of selections corrected by a second bootstrap.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

from mechsteer.attribution.checking import Checked
from mechsteer.attribution.crossfit import resampled, selected, split
from mechsteer.attribution.gradients import Recorded
from mechsteer.attribution.nulls import N_DRAWS, Nulls, Procedure
from mechsteer.attribution.selection import Evidence, by_share, evidence, gains, spanned
from mechsteer.attribution.tabulating import table
from mechsteer.bases import Basis, from_directions
from mechsteer.results import Interval, cluster_weights

D_MODEL, N_DIRS, ATOMS, SIZES = 64, 256, 32, (1, 4, 16)
ONE = torch.ones(1, 1, dtype=torch.float64)


def world(kind: str, seed: int) -> tuple[Basis, Tensor, Tensor]:
    """(basis, vector, mean gradient): no direction is planted, so selections differ from sample to sample."""
    generator = torch.Generator().manual_seed(seed)
    n = D_MODEL if kind == "orthonormal" else N_DIRS
    rows = torch.randn(n, D_MODEL, generator=generator, dtype=torch.float64)
    rows = torch.linalg.qr(rows)[0] if kind == "orthonormal" else rows
    vector, mean = torch.randn(2, D_MODEL, generator=generator, dtype=torch.float64)
    vector = vector / vector.norm()
    return from_directions(rows), vector, mean / mean.norm() + 0.7 * vector


def sample(vector: Tensor, mean: Tensor, n: int, noise: float, seed: int) -> Recorded:
    generator = torch.Generator().manual_seed(seed)
    gradients = mean + noise * torch.randn(n, D_MODEL, generator=generator, dtype=torch.float64)
    return Recorded(vector.expand(n, -1), gradients, torch.arange(n), n, 1)


def truth(basis: Basis, vector: Tensor, mean: Tensor, n: int, noise: float, repeats: int = 200) -> np.ndarray:
    """[n_sizes] what a selection from `n` contexts recovers of the population's effect, on average."""
    found = []
    for repeat in range(repeats):
        known = evidence(sample(vector, mean, n, noise, 10**6 + repeat), basis, ATOMS)
        axes = spanned(known, by_share(known, ONE.expand(1, n), max(SIZES)))[0]
        found.append(((axes @ vector) * (axes @ mean)).cumsum(0)[[k - 1 for k in SIZES]] / (vector @ mean))
    return torch.stack(found).mean(0).numpy()


def crossfitted(known: Evidence, recorded: Recorded, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The interval that `attribute_effect` prints, by its own code."""
    group_of, fold_of = split(None, n, 2, seed)
    weights = resampled(group_of, fold_of, N_DRAWS, seed)
    procedure = Procedure(recorded, ATOMS, by_share, group_of, fold_of, SIZES, weights)
    chosen = selected(known, fold_of, max(SIZES), by_share)
    kept = np.zeros((n, len(SIZES)))
    for fold, pick in enumerate(chosen):
        inside = fold_of == fold
        kept[inside] = gains(known, pick).cumsum(1)[:, [k - 1 for k in SIZES]].numpy()[inside]
    effect = recorded.linear.numpy()
    own = Checked(kept, effect[:, None] - kept, np.ones(len(SIZES)))
    nothing = np.zeros((0, len(SIZES)))
    rows = table(procedure, known, chosen, own, effect, Nulls(nothing, (), (), ()), np.arange(n), nothing)
    return rows["sufficiency_low"].to_numpy(float), rows["sufficiency_high"].to_numpy(float)


def on_the_same(known: Evidence, recorded: Recorded, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranked and checked on the same contexts: what was printed before."""
    pick = by_share(known, ONE.expand(1, n), max(SIZES))
    kept = gains(known, pick).cumsum(1)[:, [k - 1 for k in SIZES]].numpy()
    weights = cluster_weights(n, 1000, np.random.default_rng(seed))
    draws = (weights @ kept) / (weights @ recorded.linear.numpy())[:, None]
    intervals = [Interval.from_draws(0.0, column) for column in draws.T]
    return np.asarray([i.low for i in intervals]), np.asarray([i.high for i in intervals])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=120)
    repeats = parser.parse_args(argv).repeats
    torch.set_num_threads(1)
    print(f"coverage of nominal 95 % intervals at k = {', '.join(map(str, SIZES))}; {repeats} samples each")
    print(f"{'dictionary':12} {'contexts':>8} {'noise':>5}   cross-fitted      ranked and checked on the same contexts")
    for kind in ("orthonormal", "overcomplete"):
        for n, noise in ((64, 0.2), (64, 0.5), (300, 0.5)):
            basis, vector, mean = world(kind, seed=n)
            half, whole = (truth(basis, vector, mean, size, noise) for size in (n // 2, n))
            hits = np.zeros((2, len(SIZES)))
            for repeat in range(repeats):
                recorded = sample(vector, mean, n, noise, repeat)
                known = evidence(recorded, basis, ATOMS)
                for row, (interval, true) in enumerate(((crossfitted, half), (on_the_same, whole))):
                    low, high = interval(known, recorded, n, repeat)
                    hits[row] += (low <= true) & (true <= high)
            told = ["  ".join(f"{share:.3f}" for share in row) for row in hits / repeats]
            print(f"{kind:12} {n:8} {noise:5.1f}   {told[0]}   {told[1]}")


if __name__ == "__main__":
    main()
