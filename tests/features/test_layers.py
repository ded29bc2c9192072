"""SAEs of several sites side by side: overlaps against loops, densities of both forms of activations."""

import pytest
import torch

from mechsteer.features.layers import QUANTILES, n_firing, overlaps, quantiles
from mechsteer.features.sparse import sparsified


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_overlap_is_the_mean_of_the_largest_cosines():
    decoders, tops = [random(9, 6, seed=1), 3 * random(7, 6, seed=2)], [[4, 0, 7], [1, 6]]
    overlap, _ = overlaps(decoders, tops)
    for a in range(2):
        for b in range(2):
            best = [
                max(float(torch.cosine_similarity(decoders[a][i], decoders[b][j], dim=0)) for j in tops[b])
                for i in tops[a]
            ]
            assert float(overlap[a, b]) == pytest.approx(sum(best) / len(best), abs=1e-6)
    assert overlap.diag().tolist() == pytest.approx([1, 1])


def test_shared_features_stand_out_of_chance():
    shared, first, second = random(5, 64), random(200, 64, seed=1), random(200, 64, seed=2)
    first[:5], second[100:105] = shared, shared
    tops = [list(range(5)), list(range(100, 105))]
    overlap, chance = overlaps([first, second], tops)
    assert overlap[0, 1] > 0.999
    assert chance[0, 1] < 0.5
    unrelated, _ = overlaps([first, second], [tops[0], list(range(5))])
    assert unrelated[0, 1] < 0.5
    assert torch.equal(chance, overlaps([first, second], tops)[1])
    assert not torch.equal(chance, overlaps([first, second], tops, seed=1)[1])


def test_no_scores_and_too_few_features_are_undefined():
    overlap, chance = overlaps([random(4, 6), random(4, 6, seed=1)], [[0, 1, 2], []])
    assert overlap[0, 0] == pytest.approx(1)
    assert overlap.isnan().sum() == 3
    assert chance.isnan().all()  # one feature of four is left


def test_densities_are_of_the_tokens_under_the_mask():
    acts = random(3, 5, 8).relu() * (random(3, 5, 8, seed=1) > 0.8)
    mask = random(3, 5, seed=2) > -0.5
    expected = [sum(int(acts[r, p, i] > 0) for r, p in mask.nonzero().tolist()) for i in range(8)]
    assert n_firing(acts, mask).tolist() == n_firing(sparsified(acts), mask).tolist() == expected
    values = torch.arange(1001.0)
    assert quantiles(values) == pytest.approx([1000 * q for q in QUANTILES])
