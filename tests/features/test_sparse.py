"""Sparse activations: scores, ratios and matched words as of the dense ones; what a TopK SAE encodes without a dense matrix."""

import pytest
import torch

from mechsteer.errors import NonFiniteError, ShapeError
from mechsteer.features import (
    MatchedLists,
    MatchedWordsAccumulator,
    ReasonRatioAccumulator,
    ReasonScoreAccumulator,
    SparseActs,
    reason_ratio,
    reason_score,
    sparse,
)
from mechsteer.features.sparse import join, sparsified, sums_over

GROUPS = {"wait": [(3,), (4,)], "let me": [(5, 6), (5,)], "hmm": [(7, 3, 1)], "but": [(9,)]}
FIELDS = ("score", "mu_pos", "mu_neg", "entropy")
pytestmark = pytest.mark.filterwarnings("ignore::mechsteer.features.MechsteerWarning")


def random_case(seed=0, n_rows=7, n_pos=17, d_sae=40, k=5):
    """(tokens, sparse activations with unused places, mask)"""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 14, (n_rows, n_pos), generator=generator)
    indices = torch.rand(n_rows, n_pos, d_sae, generator=generator).topk(k).indices
    values = (torch.randn(n_rows, n_pos, k, generator=generator) + 0.5).relu()  # some are 0
    lengths = torch.randint(3, n_pos + 1, (n_rows,), generator=generator)
    return tokens, SparseActs(indices=indices, values=values, d_sae=d_sae), torch.arange(n_pos) < lengths[:, None]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("window", [(2, 3), (0, 0), (20, 1)])
def test_scores_are_those_of_the_dense_activations(seed, window):
    tokens, acts, mask = random_case(seed)
    how = {"window": window, "ignore_ids": [0], "mask": mask}
    ours, dense = reason_score(tokens, acts, GROUPS, **how), reason_score(tokens, acts.dense(), GROUPS, **how)
    for name in FIELDS:
        close(getattr(ours, name), getattr(dense, name))
    assert (ours.counts, ours.n_pos, ours.n_neg) == (dense.counts, dense.n_pos, dense.n_neg)


@pytest.mark.parametrize("n_rows", [1, 3])
def test_neither_batches_nor_chunks_matter(n_rows, monkeypatch):
    tokens, acts, mask = random_case(1)
    whole = reason_score(tokens, acts, GROUPS, mask=mask)
    monkeypatch.setattr(sparse, "_CHUNK_ENTRIES", 11)
    streamed = ReasonScoreAccumulator(GROUPS, acts.d_sae)
    for start in range(0, len(tokens), n_rows):
        part = slice(start, start + n_rows)
        streamed.update(tokens[part], acts[part], mask[part])
    for name in FIELDS:
        torch.testing.assert_close(getattr(streamed.result(), name), getattr(whole, name), rtol=1e-12, atol=1e-12)


def test_dense_and_sparse_batches_mix():
    tokens, acts, mask = random_case(2)
    mixed = ReasonScoreAccumulator(GROUPS, acts.d_sae)
    mixed.update(tokens[:3], acts[:3], mask[:3])
    mixed.update(tokens[3:], acts[3:].dense(), mask[3:])
    close(mixed.result().score, reason_score(tokens, acts.dense(), GROUPS, mask=mask).score)


def test_ratios_and_matched_words_are_those_of_the_dense_activations():
    tokens, acts, mask = random_case(3, n_rows=30)
    ours, dense = (reason_ratio(tokens, each, GROUPS, k=4, mask=mask) for each in (acts, acts.dense()))
    close(ours.score, dense.score)
    assert torch.equal(ours.n_prompts, dense.n_prompts)
    words = {"w": [(3,)], "v": [(4,)]}
    choice = MatchedLists(words, window=(0, 0))
    choice.update(tokens, mask)
    lists = choice.draw(lambda token: f"w{token}", n_lists=5)
    found = []
    for each in (acts, acts.dense()):
        matched = MatchedWordsAccumulator(lists, acts.d_sae, n_words=2, window=(0, 0))
        matched.update(tokens, each, mask)
        found.append(matched.result(reason_score(tokens, acts.dense(), words, window=(0, 0), mask=mask), str))
    close(found[0].maxima, found[1].maxima)
    assert torch.equal(found[0].p_feature, found[1].p_feature)


def test_sums_are_those_of_a_loop():
    acts = SparseActs(
        indices=torch.tensor([[0, 2, 2], [1, 0, 0], [3, 1, 0]]),  # an index twice adds up
        values=torch.tensor([[1.0, 2.0, 4.0], [8.0, 0.0, 0.0], [float("nan"), 1.0, 1.0]]),
        d_sae=5,
    )
    sets = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])
    assert sums_over(sets, acts).tolist() == [[1, 8, 6, 0, 0], [0, 8, 0, 0, 0], [0] * 5]
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        sums_over(torch.tensor([[False, False, True]]), acts)


def test_nan_behind_the_mask_is_no_matter_and_before_it_refused():
    tokens, acts, mask = random_case(4)
    expected = reason_score(tokens, acts, GROUPS, mask=mask)
    spoilt = SparseActs(indices=acts.indices, values=acts.values.where(mask[..., None], torch.nan), d_sae=acts.d_sae)
    assert torch.equal(reason_score(tokens, spoilt, GROUPS, mask=mask).score, expected.score)
    for accumulator in (ReasonScoreAccumulator(GROUPS, acts.d_sae), ReasonRatioAccumulator(GROUPS, acts.d_sae)):
        with pytest.raises(NonFiniteError, match="NaN or infinity"):
            accumulator.update(tokens, spoilt)


def test_to_dense_and_back():
    _, acts, _ = random_case(5)
    again = sparsified(acts.dense())
    assert torch.equal(again.dense(), acts.dense())
    assert again.indices.shape[-1] == int((acts.dense() != 0).sum(-1).max())
    assert torch.equal(join([again.flat()[:3], acts.flat()[3:]]).dense(), acts.flat().dense())
    assert sparsified(torch.zeros(2, 4)).indices.shape == (2, 0)
    assert sums_over(torch.ones(1, 2, dtype=torch.bool), sparsified(torch.zeros(2, 4))).tolist() == [[0.0] * 4]


def test_refusals():
    tokens, acts, _ = random_case()
    with pytest.raises(ShapeError, match="do not fit d_sae"):
        reason_score(tokens[:2], acts, GROUPS)
    with pytest.raises(ShapeError, match=r"indices .* and values"):
        SparseActs(indices=acts.indices, values=acts.values[..., :2], d_sae=40)
    with pytest.raises(ShapeError, match="d_sae is 10"):
        SparseActs(indices=acts.indices, values=acts.values, d_sae=10)
    with pytest.raises(ShapeError, match="at least one"):
        join([])
