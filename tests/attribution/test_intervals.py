"""Intervals of a cross-fitted share, in worlds where what any set of directions recovers is algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

import mechsteer as ms
from mechsteer.attribution.checking import Checked
from mechsteer.attribution.crossfit import redrawn, repeated, selected, split
from mechsteer.attribution.gradients import Recorded
from mechsteer.attribution.intervals import half_width, half_width_over_draws
from mechsteer.attribution.nulls import Nulls, Procedure
from mechsteer.attribution.selection import by_share, evidence, gains
from mechsteer.attribution.tabulating import table

D, N = 12, 40
ONE = np.ones(1)


def simulated(mean: torch.Tensor, seed: int, noise: float = 0.5, n: int = N):
    """(evidence, fold of every context) of a vector of ones in the axes, whose contributions are the gradients."""
    generator = torch.Generator().manual_seed(seed)
    gradients = mean + noise * torch.randn(n, D, generator=generator, dtype=torch.float64)
    recorded = Recorded(torch.ones(n, D), gradients, torch.arange(n), n, 1)
    basis = ms.bases.from_directions(torch.eye(D, dtype=torch.float64))
    return evidence(recorded, basis, D), split(None, n, 2, seed)[1]


def checked(found, chosen, fold_of) -> np.ndarray:
    """[n_contexts 1]: what the set chosen without a context recovers of it."""
    kept = torch.stack([gains(found, pick).sum(1) for pick in chosen]).numpy()
    return kept[fold_of, np.arange(len(fold_of))][:, None]


def covered(mean: torch.Tensor, k: int, seeds: range) -> tuple[float, float, float]:
    """How often an interval holds what its two sets recover of the population: as printed; with errors of the folds
    taken as independent; selected on the contexts that check."""
    hits = np.zeros(3)
    for seed in seeds:
        found, fold_of = simulated(mean, seed)
        effect, everything = found.contributions.sum(1).numpy(), np.arange(N)
        chosen = selected(found, fold_of, k, by_share)
        draws = redrawn(everything, fold_of, 100, seed)
        alike = repeated(found, fold_of, chosen, (k,), by_share, draws).alike
        truth = np.mean([float(mean[pick[0]].sum() / mean.sum()) for pick in chosen])
        values = checked(found, chosen, fold_of)
        other = checked(found, chosen[::-1], fold_of)
        for i, (each, factor) in enumerate(((values, alike), (values, ONE), (other, ONE))):
            half = half_width(each, everything, effect, everything, fold_of, factor)[0]
            hits[i] += abs(each.mean() / effect.mean() - truth) <= half
    return tuple(hits / len(seeds))


def test_intervals_cover_what_the_directions_chosen_recover_at_ties():
    """Twelve directions exactly as good: at a nominal .95, and 300 samples, from .92 to .98."""
    printed, independent, same = covered(torch.ones(D, dtype=torch.float64), 4, range(300))
    assert 0.92 <= printed <= 0.98
    assert independent < printed  # each half has chosen what the other checks
    assert same < 0.5  # and none may check what it chose itself


def test_intervals_cover_where_the_selection_is_clear():
    mean = torch.cat([torch.full((2,), 3.0), torch.full((D - 2,), 0.5)]).double()
    printed, independent, _ = covered(mean, 2, range(300))
    assert 0.92 <= printed <= 0.98
    assert printed == pytest.approx(independent, abs=0.01)  # nothing is alike then


@pytest.mark.parametrize(("gap", "expected", "again"), [(0.0, 1 + 1 / np.pi, 0.5), (5.0, 1.0, 1.0)])
def test_errors_of_folds_are_alike_at_ties_only(gap, expected, again):
    """Two equal directions, k = 1, and an effect that is certain. A fold's error is (sum ± difference) / 2 of what its
    contexts say of the two, with the sign that the other fold chose; the product of two such errors has a mean of
    E|difference|² / 4, 2/π of half a variance of an error."""
    factors, chosen_again = [], []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        ones = torch.ones(N, 1, dtype=torch.float64)
        noise = torch.randn(N, 2, generator=generator, dtype=torch.float64)
        noise = torch.linalg.qr(torch.cat([ones, noise], 1))[0][:, 1:]  # of mean 0, uncorrelated
        gradients = torch.stack([50 + gap + 5 * noise[:, 0], 50 + 5 * noise[:, 1], torch.full((N,), 1e6)], 1)
        recorded = Recorded(torch.tensor([[1.0, 1, 1]]).expand(N, -1), gradients, torch.arange(N), N, 1)
        found = evidence(recorded, ms.bases.from_directions(torch.eye(3, dtype=torch.float64)), 3)
        found.contributions[:, 2] = 0  # never chosen
        _, fold_of = split(None, N, 2, seed)
        chosen = selected(found, fold_of, 1, by_share)
        there = repeated(found, fold_of, chosen, (1,), by_share, redrawn(np.arange(N), fold_of, 400, seed))
        factors.append(float(there.alike[0]))
        chosen_again.append(float(there.chosen_again[0]))
    assert np.mean(factors) == pytest.approx(expected, abs=0.03)  # what 20 times 400 draws tell
    assert np.mean(chosen_again) == pytest.approx(again, abs=0.05)


def test_a_share_of_one_known_effect_is_a_t_test_of_each_fold():
    """With an effect that does not vary the ratio is a mean, and one value per group is a sample."""
    rng = np.random.default_rng(0)
    values, folds = rng.normal(size=(20, 2)), np.arange(20) % 2
    effect = np.full(20, 4.0)
    half = half_width(values, np.arange(20), effect, np.arange(20), folds, np.ones(2))
    errors = [values[folds == fold].std(0, ddof=1) / np.sqrt(10) for fold in (0, 1)]
    by_hand = 2.10092 * np.sqrt(errors[0] ** 2 + errors[1] ** 2) / 2 / 4  # Student's t of 18 degrees
    np.testing.assert_allclose(half, by_hand, rtol=1e-5)
    # contexts of one group that say the same thing are one context
    again = np.repeat(np.arange(20), 3)
    tripled = half_width(values[again], np.arange(60), effect[again], again, folds[again], np.ones(2))
    np.testing.assert_allclose(tripled, half, rtol=1e-10)
    twice = half_width(values, np.arange(20), effect, np.arange(20), folds, np.full(2, 2.0))
    np.testing.assert_allclose(twice, np.sqrt(2) * half, rtol=1e-10)


def test_a_share_of_a_varying_effect_is_that_of_a_ratio():
    """A part that is always .3 of the effect has no error, whatever the effect does; also on some of the contexts."""
    rng = np.random.default_rng(1)
    effect, folds = 1 + rng.random(20), np.arange(20) % 2
    half = half_width(0.3 * effect[:, None], np.arange(20), effect, np.arange(20), folds, ONE)
    assert half[0] == pytest.approx(0, abs=1e-12)
    rows = np.arange(8)
    some = half_width(np.full((8, 1), 0.3), rows, np.ones(20), np.arange(20), folds, ONE)
    assert some[0] == pytest.approx(0, abs=1e-12)
    assert half_width(effect[rows, None], rows, effect, np.arange(20), folds, ONE)[0] > 0.05


def test_one_group_in_a_fold_has_no_spread():
    values, effect = np.ones((4, 2)), np.ones(4)
    groups, folds = np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])
    assert np.isnan(half_width(values, np.arange(4), effect, groups, folds, np.ones(2))).all()
    assert np.isnan(half_width_over_draws(np.ones((1, 2)))).all()


def test_the_mean_over_null_bases_is_a_t_test():
    values = np.random.default_rng(2).normal(size=(6, 1))
    low, high = ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    assert half_width_over_draws(values)[0] == pytest.approx((high - low) / 2)


def test_the_table_prints_these_intervals_for_kept_removed_and_beyond_nulls():
    """What nulls recover of half of the contexts, known: .2 and .4 of every one's own."""
    found, fold_of = simulated(torch.linspace(1, 1.3, D, dtype=torch.float64), 0)
    effect, everything, sizes = found.contributions.sum(1).numpy(), np.arange(N), (2, 6)
    recorded = Recorded(torch.ones(N, D), found.contributions, torch.arange(N), N, 1)
    draws = redrawn(everything, fold_of, 100, 0)
    procedure = Procedure(recorded, D, by_share, everything, fold_of, sizes, draws)
    chosen = procedure.chosen(found)
    kept = np.concatenate([checked(found, [pick[:, :size] for pick in chosen], fold_of) for size in sizes], 1)
    rows = np.arange(0, N, 2)
    own = Checked(kept, effect[:, None] - kept, np.ones(2))
    nulls = tuple(
        Checked(share * kept[rows], effect[rows, None] - share * kept[rows], np.ones(2)) for share in (0.2, 0.4)
    )
    nothing = np.zeros((0, 2))
    shown = table(procedure, found, chosen, own, effect, Nulls(nothing, nulls, ()), rows, nothing)
    alike = procedure.repeated(found, chosen).alike
    contexts = effect, everything, fold_of, alike
    expected = half_width(kept, everything, *contexts)
    over_nulls = 12.7062 * 0.1 * kept[rows].mean(0) / effect.mean()  # Student's t of 1 degree, .2 apart
    beyond = np.hypot(half_width(0.7 * kept[rows], rows, *contexts), over_nulls)
    for name, half in {
        "sufficiency": expected,
        "necessity": expected,
        "beyond_null": beyond,
        "necessity_beyond_null": beyond,
    }.items():
        np.testing.assert_allclose(shown[f"{name}_high"] - shown[name], half, rtol=1e-5)
        np.testing.assert_allclose(shown[name] - shown[f"{name}_low"], half, rtol=1e-5)
    np.testing.assert_allclose(shown["beyond_null"], 0.7 * kept[rows].mean(0) / effect.mean())
    np.testing.assert_allclose(shown["necessity"], shown["sufficiency"])  # what is removed is what is kept
    for row, size in enumerate(sizes):
        again = []
        for fold in (0, 1):
            totals = np.abs(draws[1 - fold].numpy() @ found.contributions.numpy())
            best = np.argsort(-totals, axis=1)[:, :size]
            own_best = chosen[fold][0, :size].tolist()
            again += [len(set(own_best) & set(each)) / size for each in best.tolist()]
        assert shown["chosen_again"].to_numpy(float)[row] == pytest.approx(np.mean(again))
