"""Samples of firings: exact where all are kept, fair where not, the same in any batches; bands between quantiles."""

import itertools
import math

import numpy as np
import pytest
import torch

from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.features import FiringAccumulator, quantile_bands


def case(seed=0, n_rows=30, n_pos=9, d_sae=5):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 20, (n_rows, n_pos), generator=generator)
    acts = torch.randn(n_rows, n_pos, d_sae, generator=generator).clamp(min=0)
    acts[..., 4] = 0
    mask = torch.arange(n_pos) < torch.randint(2, n_pos + 1, (n_rows, 1), generator=generator)
    return tokens, acts, mask


def sampled(shards, features=(3, 0, 4), **settings):
    seen = FiringAccumulator(features, **settings)
    for shard in shards:
        seen.update(*shard)
    return seen.result()


def places(firings):
    return {(context.prompt_id, context.position) for context in firings.contexts}


def test_all_firings_where_there_are_no_more():
    tokens, acts, mask = case()
    for firings in sampled([(tokens, acts, mask)], n=1000, before=2, after=1):
        own = acts[..., firings.feature].where(mask, 0).double()
        assert firings.n_firing == len(firings.contexts) == int((own > 0).sum())
        assert places(firings) == {tuple(place) for place in (own > 0).nonzero().tolist()}
        for context in firings.contexts:
            length, row = int(mask[context.prompt_id].sum()), own[context.prompt_id]
            near = range(max(context.position - 2, 0), min(context.position + 2, length))
            assert context.tokens == [int(tokens[context.prompt_id, p]) for p in near]
            assert context.activations == [float(row[p]) for p in near]
            assert context.activations[context.peak] == context.activation == row[context.position]
    assert firings.contexts == ()  # the dead feature


def test_each_feature_has_its_own_sample():
    assert [len(firings.contexts) for firings in sampled([case()], n=10)] == [10, 10, 0]


@pytest.mark.parametrize("n_rows", [1, 7])
def test_does_not_depend_on_chunks(n_rows):
    whole = case()
    shards = list(zip(*(part.split(n_rows) for part in whole), strict=True))
    assert sampled([whole], n=10) == sampled(shards, n=10)
    assert places(sampled([whole], n=10)[0]) != places(sampled([whole], n=10, seed=1)[0])


def test_every_firing_is_as_likely_as_any_other():
    """Over seeds each of 40 firings is in a sample of 10 a quarter of the time."""
    tokens, acts = torch.zeros(4, 10, dtype=torch.long), torch.ones(4, 10, 1)
    counts = np.zeros((4, 10))
    for seed in range(400):
        for place in places(sampled([(tokens, acts)], features=[0], n=10, seed=seed)[0]):
            counts[place] += 1
    assert counts.sum() == 4000
    spread = ((counts - 100) ** 2 / 75).sum() / 40  # binomial variance 75: near 1, by chance alone below 1.6
    assert spread < 1.6


def test_bands_lie_between_the_quantiles_of_the_activations():
    tokens, acts, mask = case(n_rows=60)
    firings = sampled([(tokens, acts, mask)], features=[0], n=10_000)[0]
    own = np.sort([c.activation for c in firings.contexts])
    bands = quantile_bands(firings, (0, 0.5, 0.9, 1), n=3)
    assert [(b.from_quantile, b.to_quantile) for b in bands] == [(0.9, 1), (0.5, 0.9), (0, 0.5)]
    assert sum(b.n_sampled for b in bands) == len(own)
    assert bands[0].high == own[-1]
    assert bands[2].low == own[0]
    for above, below in itertools.pairwise(bands):
        assert above.low > below.high
    for band in bands:
        strengths = [c.activation for c in band.contexts]
        assert strengths == sorted(strengths, reverse=True)
        assert all(band.low <= s <= band.high for s in strengths)
        assert len(strengths) == 3
        assert all(own.searchsorted(s) / len(own) >= band.from_quantile - 0.02 for s in strengths)


def test_bands_of_a_dead_feature_and_of_equal_texts():
    dead = sampled([case()])[2]
    assert [math.isnan(b.low) and b.n_sampled == 0 and b.contexts == () for b in quantile_bands(dead)] == [True] * 4
    tokens, acts = torch.full((6, 1), 3), torch.ones(6, 1, 1)
    (band,) = quantile_bands(sampled([(tokens, acts)], features=[0])[0], (0, 1), n=4)
    assert (band.n_sampled, len(band.contexts)) == (6, 1)


def test_refusals():
    tokens, acts, mask = case()
    for wrong in ({"n": 0}, {"before": -1}, {"seed": -1}):
        with pytest.raises(ConfigError, match="the others 0 or more"):
            FiringAccumulator([1], **wrong)
    with pytest.raises(ConfigError, match="distinct"):
        FiringAccumulator([1, 1])
    with pytest.raises(ShapeError, match="feature 5"):
        sampled([(tokens, acts, mask)], features=[5])
    with pytest.raises(ShapeError, match="prompt ids"):
        FiringAccumulator([1]).update(tokens, acts, mask, prompt_ids=[1])
    with pytest.raises(ConfigError, match="rise"):
        quantile_bands(sampled([(tokens, acts, mask)])[0], (0.5, 0.2))
    acts[0, 0, 3] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN"):
        sampled([(tokens, acts, mask)])
