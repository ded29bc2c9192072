import math

import pytest
import torch

from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.features import ContextAccumulator, token_shares


def case(seed=0, n_rows=12, n_pos=9, d_sae=6):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 20, (n_rows, n_pos), generator=generator)
    # few distinct values: ties between prompts must not depend on the chunks
    acts = torch.randint(-3, 5, (n_rows, n_pos, d_sae), generator=generator).clamp(min=0).float()
    acts[..., 5] = 0
    mask = torch.arange(n_pos) < torch.randint(2, n_pos + 1, (n_rows, 1), generator=generator)
    return tokens, acts, mask


def reports(shards, features=(4, 0, 5), **settings):
    seen = ContextAccumulator(features, **settings)
    for shard in shards:
        seen.update(*shard)
    return seen.result()


def test_equals_sorting_everything():
    tokens, acts, mask = case()
    for report in reports([(tokens, acts, mask)], n=3, before=2, after=1):
        own = acts[..., report.feature].where(mask, 0)
        assert report.n_tokens == int(mask.sum())
        assert report.f_max == own.max()
        assert report.mean == pytest.approx(float(own.sum()) / report.n_tokens)
        assert report.density == int((own > 0).sum()) / report.n_tokens
        best = sorted(range(len(tokens)), key=lambda r: (-own[r].max(), r))
        best = [r for r in best if own[r].max() > 0][:3]
        assert [c.prompt_id for c in report.contexts] == best
        for context in report.contexts:
            row = own[context.prompt_id]
            assert context.position == row.argmax()
            places = range(max(context.position - 2, 0), min(context.position + 2, int(mask[context.prompt_id].sum())))
            assert context.tokens == [int(tokens[context.prompt_id, p]) for p in places]
            assert context.activations == [float(row[p]) for p in places]
            assert context.activations[context.peak] == context.activation == row.max()
        mass = torch.zeros(20).index_add_(0, tokens.flatten(), own.flatten())
        for token, share in report.token_shares:
            assert share == pytest.approx(float(mass[token] / mass.sum()))
        if mass.sum() > 0:
            assert report.top5_share == pytest.approx(float(mass.topk(5).values.sum() / mass.sum()))
    assert report.contexts == report.token_shares == ()
    assert math.isnan(report.top5_share)  # the dead feature


@pytest.mark.parametrize("n_rows", [1, 5])
def test_does_not_depend_on_chunks(n_rows):
    whole = case()
    shards = list(zip(*(part.split(n_rows) for part in whole), strict=True))
    once, streamed = reports([whole], n=4), reports(shards, n=4)
    assert repr(once) == repr(streamed)


def test_own_prompt_ids_and_dict():
    tokens, acts, mask = case()
    seen = ContextAccumulator([0], n=2)
    seen.update(tokens, acts, mask, prompt_ids=range(100, 112))
    report = seen.result()[0]
    assert all(context.prompt_id >= 100 for context in report.contexts)
    assert report.to_dict()["contexts"][0]["tokens"] == report.contexts[0].tokens


def test_a_token_detector_is_told():
    tokens = torch.arange(200).reshape(10, 20) % 50
    acts = torch.stack([(tokens == 3).float(), torch.ones(10, 20)], -1)
    shares = token_shares(tokens, acts, [0, 1])
    assert shares[0] == [(3, 1.0)]
    assert sum(share for _, share in shares[1]) == pytest.approx(0.1)


def test_refusals():
    tokens, acts, mask = case()
    with pytest.raises(ConfigError, match="distinct"):
        ContextAccumulator([1, 1])
    with pytest.raises(ConfigError, match="n=0"):
        ContextAccumulator([1], n=0)
    with pytest.raises(ShapeError, match="feature 6"):
        reports([(tokens, acts, mask)], features=[6])
    with pytest.raises(ShapeError, match="prompt ids"):
        ContextAccumulator([1]).update(tokens, acts, mask, prompt_ids=[1])
    acts[0, 0, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN"):
        reports([(tokens, acts, mask)], features=[1])
