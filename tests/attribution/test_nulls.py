"""A basis beside meaningless ones, on simulated gradients: no model runs, the answer is algebra."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.attribution.crossfit import crossfitted, redrawn, selected, split
from mechsteer.attribution.effect_attribution import EffectAttribution, compare_bases
from mechsteer.attribution.gradients import Recorded
from mechsteer.attribution.nulls import Procedure, rank_p
from mechsteer.attribution.selection import by_effect, by_share, evidence, gains, kept, largest_alone, spanned
from mechsteer.bases import meaningless
from mechsteer.errors import ConfigError, DataError
from mechsteer.results.families import holm

D, N, SIZES = 32, 40, (2, 8)
ONES = torch.ones(1, N, dtype=torch.float64)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recording(vector: torch.Tensor, mean: torch.Tensor, seed: int, noise: float = 0.3, n: int = N) -> Recorded:
    gradients = mean + noise * normal(n, D, seed=seed)
    return Recorded(vector.expand(n, -1), gradients, torch.arange(n), n, 1)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def p_values(recorded: Recorded, basis, seed: int, n: int = 59, select=by_share) -> np.ndarray:
    group_of, fold_of = split(None, recorded.n_prompts, 2, seed)
    procedure = Procedure(recorded, 8, select, group_of, fold_of, SIZES, torch.ones(2, 1, recorded.n_prompts))
    curves = [procedure.curve(procedure.evidence(null)) for null in meaningless(basis, n, seed)]
    return holm(rank_p(procedure.curve(procedure.evidence(basis)), np.stack(curves)))


@pytest.mark.parametrize("is_orthonormal", [True, False])
def test_a_meaningless_basis_says_no_more_than_noise(is_orthonormal):
    """Forty bases at random: at most one in ten is told from its own nulls (nominal: one in twenty)."""
    claims = 0
    for seed in range(40):
        rows = normal(D if is_orthonormal else 3 * D, D, seed=seed)
        basis = ms.bases.from_directions(torch.linalg.qr(rows)[0] if is_orthonormal else rows)
        vector, mean = unit(normal(2, D, seed=100 + seed))
        claims += p_values(recording(vector, mean + vector, seed), basis, 1000 + seed).min() < 0.05
    assert claims <= 4


@pytest.mark.parametrize("select", [by_share, by_effect])
def test_a_planted_sparse_basis_beats_its_nulls(select):
    for seed in range(5):
        basis = ms.bases.from_directions(normal(3 * D, D, seed=seed))
        vector = basis.directions[:3].sum(0) + 0.05 * unit(normal(D, seed=seed + 50))
        mean = torch.linalg.pinv(basis.directions[:3]).sum(1)  # reads each of the three, and nothing beside them
        assert p_values(recording(vector, mean, seed, noise=0.1), basis, seed, select=select).min() < 0.05


def test_shares_gains_and_kept_parts_are_algebra():
    basis = ms.bases.from_directions(torch.linalg.qr(normal(D, D, seed=0))[0])
    vector, mean = unit(normal(2, D, seed=1))
    recorded = recording(vector, mean, 2)
    found = evidence(recorded, basis, 8)
    expected = (vector @ basis.directions.T) * (recorded.gradients @ basis.directions.T)
    torch.testing.assert_close(found.contributions, expected)
    order = expected.sum(0).abs().argsort(descending=True)[:8]
    assert by_share(found, ONES, 8)[0].tolist() == order.tolist()
    torch.testing.assert_close(kept(found, ONES, order[None])[0], expected.sum(0)[order].cumsum(0))
    torch.testing.assert_close(gains(found, order[None]), expected[:, order])
    assert float(recorded.linear.sum()) == pytest.approx(float(expected.sum()))


def test_deltas_of_every_token_and_dependent_directions():
    """Several deltas a prompt, an overcomplete basis: a projection by hand."""
    deltas, gradients = normal(60, D, seed=4), normal(60, D, seed=5)
    recorded = Recorded(deltas, gradients, torch.arange(60) % 6, 6, 1)
    rows = normal(50, D, seed=6)
    rows[1] = rows[0] + 1e-9 * rows[2]  # the same direction to rounding
    found = evidence(recorded, ms.bases.from_directions(rows), 4)
    chosen = torch.tensor([[0, 1, 2]])
    weights = torch.tensor([[1.0, 2, 0, 1, 0, 3]], dtype=torch.float64)
    assert spanned(found, chosen)[0, 1].norm() == 0
    basis, _ = torch.linalg.qr(found.directions[[0, 2]].T)
    by_token = ((deltas @ basis) * (gradients @ basis)).sum(1) * weights[0, recorded.prompt_of]
    torch.testing.assert_close(kept(found, weights, chosen)[0, 2], by_token.sum())
    alone = [(deltas @ row) @ (gradients @ row) for row in found.directions]  # whatever four atoms a token hold
    expected = sorted(range(50), key=lambda i: -abs(float(alone[i])))
    largest = largest_alone(found, 5)
    assert [sorted(largest[0].tolist()), float(gains(found, largest)[:, 0].sum())] == [
        sorted(expected[:5]),
        pytest.approx(float(alone[expected[0]])),
    ]


def test_pursuit_of_the_effect_takes_no_near_copy_twice():
    rows = unit(normal(20, D, seed=7))
    rows[1] = unit(rows[0] + 0.05 * rows[2])
    basis = ms.bases.from_directions(rows)
    vector, mean = rows[0] + 0.2 * rows[1] + 0.5 * rows[5], rows[0] + 0.5 * rows[5]
    found = evidence(recording(vector, mean, 0, noise=0.01), basis, 20)
    assert set(by_effect(found, ONES, 2)[0].tolist()) in ({0, 5}, {1, 5})


def test_crossfitting_sees_through_a_basis_made_for_one_half():
    """Directions fitted to the noise of some contexts carry the effect there and nowhere else."""
    vector = unit(normal(D, seed=8))
    recorded = recording(vector, 0.5 * vector, 9, noise=1.0)
    _, fold_of = split(None, N, 2, 0)
    half = torch.as_tensor(fold_of == 0)
    basis = ms.bases.from_directions(torch.cat([recorded.gradients[half].mean(0)[None], normal(4, D, seed=10)]))
    found = evidence(recorded, basis, 5)
    in_sample = kept(found, ONES * half, by_share(found, ONES * half, 1))[0, 0] / recorded.linear[half].sum()
    assert float(in_sample) == pytest.approx(1, rel=1e-9)  # the gradient's own direction keeps all of it
    assert float(crossfitted(found, fold_of, (1,), by_share)[0]) < 0.6
    unlike = replace(found, contributions=torch.where(half[:, None], found.contributions.flip(1), found.contributions))
    before, after = (selected(each, fold_of, 2, by_share) for each in (found, unlike))
    assert torch.equal(before[0], after[0])  # what a fold is checked with knows nothing of it
    assert not torch.equal(before[1], after[1])


def test_groups_stay_together_and_weights_are_repetitions():
    groups = ["a", "b", "b", "c", "c", "c", "d", "e"]
    group_of, fold_of = split(groups, 8, 2, 0)
    for group in range(5):
        assert len(set(fold_of[group_of == group])) == 1
    assert abs(int((fold_of == 0).sum()) - 4) <= 1
    weights = redrawn(group_of, fold_of, 50, 0).numpy()
    for group in range(5):
        assert (weights[:, :, group_of == group].std(axis=2) == 0).all()
    first = [np.flatnonzero(group_of == g)[0] for g in range(5)]
    for fold in (0, 1):  # as many groups as the fold has, from all of them
        assert (weights[fold][:, first].sum(1) == len(set(group_of[fold_of == fold]))).all()
        assert (weights[fold][:, first].sum(0) > 0).all()
    with pytest.raises(DataError, match=r"5 group\(s\) of contexts for 6 folds"):
        split(groups, 8, 6, 0)
    with pytest.raises(DataError, match="8 group labels for 7 prompts"):
        split(groups, 7, 2, 0)
    with pytest.raises(ConfigError, match="folds=1"):
        split(groups, 8, 1, 0)


def test_a_repeated_context_counts_twice():
    basis, (vector, mean) = ms.bases.from_directions(normal(50, D, seed=11)), unit(normal(2, D, seed=12))
    recorded = recording(vector, mean, 13)
    weights = ONES.clone()
    weights[0, 3], weights[0, 5] = 2, 0
    rows = [i for i in range(N) if i != 5] + [3]
    again = Recorded(recorded.deltas, recorded.gradients[rows], torch.arange(N), N, 1)
    weighed, counted = evidence(recorded, basis, 16), evidence(again, basis, 16)
    once, twice = by_share(weighed, weights, 8), by_share(counted, ONES, 8)
    assert torch.equal(once, twice)
    torch.testing.assert_close(kept(weighed, weights, once), kept(counted, ONES, twice))


def test_holm_and_ranks():
    assert rank_p(np.array([1.3]), np.array([[0.8], [0.5]])).tolist() == [2 / 3]  # too much is as wrong as too little
    assert np.isnan(rank_p(np.array([1.0]), np.zeros((0, 1)))).all()
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, np.nan, 0.03])), [0.03, 0.06, np.nan, 0.06])


def verdict_of(p: float, p_run: float, nulls: int) -> EffectAttribution:
    """An attribution of which only the check matters."""
    check = pd.DataFrame([{"k": 1, "p": p, "p_holm": p, "p_run": p_run}])
    settings = SimpleNamespace(nulls=nulls, nulls_run=20)
    made = SimpleNamespace(check=check, settings=settings, nothing_to_attribute=False)
    for name in ("better_than_noise", "says_more_than_noise", "verdict"):
        setattr(made, name, getattr(EffectAttribution, name).fget(made))
    return made


@pytest.mark.parametrize(
    ("p", "p_run", "nulls", "verdict"),
    [
        (0.01, 1 / 21, 300, "more than noise"),
        (0.01, 2 / 21, 300, "more than noise"),
        (0.01, 3 / 21, 300, "no more than noise"),
        (0.2, 1 / 21, 300, "no more than noise"),
        (0.2, 1 / 21, 10, "cannot tell"),
    ],
)
def test_words_need_both_ranks(p, p_run, nulls, verdict):
    found = verdict_of(p, p_run, nulls)
    assert found.verdict == verdict
    if verdict == "no more than noise":  # the words name the rank that it fails
        assert ("that really ran more than one in twenty do as well" in EffectAttribution.sentence(found)) == (p < 0.05)


def test_bases_of_different_effects_are_not_compared():
    with pytest.raises(DataError, match="no attribution"):
        compare_bases({})
    with pytest.raises(DataError, match="total effects are"):
        compare_bases({"a": SimpleNamespace(total=1.0), "b": SimpleNamespace(total=2.0)})
