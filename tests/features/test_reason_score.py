import sys
import warnings

import pytest
import torch

from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.features import (
    MechsteerWarning,
    ReasonRatioAccumulator,
    ReasonScoreAccumulator,
    reason_ratio,
    reason_score,
)
from tests.features.reference import dense_ratio, dense_scores

FIELDS = ("score", "mu_pos", "mu_neg", "entropy")


def random_case(seed, n_rows=6, n_pos=17, d_sae=9):
    generator = torch.Generator().manual_seed(seed)
    # few token ids: matches sit at row ends, overlap and touch each other; 0 is to be ignored
    tokens = torch.randint(0, 14, (n_rows, n_pos), generator=generator)
    acts = torch.randn(n_rows, n_pos, d_sae, generator=generator).relu()
    acts[..., 0] = 0  # a dead feature
    lengths = torch.randint(3, n_pos + 1, (n_rows,), generator=generator)
    mask = torch.arange(n_pos) < lengths[:, None]
    return tokens, acts, mask


GROUPS = {"wait": [(3,), (4,), (3,)], "let me": [(5, 6), (5,)], "hmm": [(7, 3, 1)], "but": [(9,)]}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("window", [(2, 3), (1, 2), (0, 0), (20, 1)])
@pytest.mark.filterwarnings("ignore::mechsteer.features.MechsteerWarning")
def test_equals_the_definition_read_aloud(seed, window):
    tokens, acts, mask = random_case(seed)
    ours = reason_score(tokens, acts, GROUPS, window=window, alpha=0.5, ignore_ids=[0], mask=mask)
    theirs = dense_scores(tokens.tolist(), acts.tolist(), GROUPS, window, 0.5, [0], mask.tolist())
    for name, expected in zip(FIELDS, theirs, strict=False):
        torch.testing.assert_close(
            getattr(ours, name), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10
        )
    assert ours.counts == theirs[-1]
    assert ours.n_pos + ours.n_neg == int((mask & (tokens != 0)).sum())


@pytest.mark.parametrize("n_rows", [1, 2, 5])
@pytest.mark.filterwarnings("ignore::mechsteer.features.MechsteerWarning")
def test_does_not_depend_on_chunks(n_rows, monkeypatch):
    tokens, acts, mask = random_case(3, n_rows=11)
    whole = reason_score(tokens, acts, GROUPS, mask=mask)
    monkeypatch.setattr(sys.modules[ReasonScoreAccumulator.__module__], "_CHUNK_ELEMENTS", 9 * 4)
    streamed = ReasonScoreAccumulator(GROUPS, acts.shape[-1])
    for shard in zip(tokens.split(n_rows), acts.split(n_rows), mask.split(n_rows), strict=True):
        streamed.update(*shard)
    for name in FIELDS:
        torch.testing.assert_close(getattr(streamed.result(), name), getattr(whole, name), rtol=1e-12, atol=1e-12)
    assert streamed.result().counts == whole.counts


def test_windows_are_cut_at_row_ends_and_counted_once():
    # two matches clip to the first token and two to the last; the rows do not see each other
    tokens = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]])
    acts = torch.arange(12.0).reshape(2, 6, 1) + 1
    scores = reason_score(tokens, acts, {"w": [(1,)]}, window=(1, 1))
    assert (scores.counts, scores.n_pos, scores.n_neg) == ({"w": 4}, 6, 6)
    assert scores.mu_pos.item() == (1 + 2 + 3 + 10 + 11 + 12) / 6
    assert scores.mu_neg.item() == (4 + 5 + 6 + 7 + 8 + 9) / 6
    assert scores.entropy.item() == 1.0  # one word


def test_padding_on_either_side_changes_nothing():
    tokens, acts, _ = random_case(5)
    alone = reason_score(tokens, acts, {"wait": [(3,)]})
    pad = torch.full((len(tokens), 4), 3)  # the padding spells the word
    junk = torch.full((len(tokens), 4, acts.shape[-1]), float("nan"))
    real = torch.ones_like(tokens, dtype=torch.bool)
    none = torch.zeros_like(pad, dtype=torch.bool)
    for left in (True, False):

        def join(padding, values, left=left):
            return torch.cat([padding, values] if left else [values, padding], 1)

        padded = reason_score(join(pad, tokens), join(junk, acts), {"wait": [(3,)]}, mask=join(none, real))
        torch.testing.assert_close(padded.score, alone.score, rtol=0, atol=0)
        assert padded.counts == alone.counts


def test_planted_feature_wins():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 50, (40, 60), generator=generator)
    acts = torch.rand(40, 60, 30, generator=generator) * (torch.rand(40, 60, 30, generator=generator) < 0.1)
    words = {f"w{i}": [(i,)] for i in range(5)}
    near_word = torch.isin(tokens, torch.arange(5))
    acts[..., 7] = near_word.float()  # all reasoning words
    acts[..., 8] = (tokens == 2).float() * 5  # one word only: low entropy
    acts[..., 9] = (~near_word).float()
    scores = reason_score(tokens, acts, words, window=(0, 0))
    assert scores.top(1).tolist() == [7]
    assert scores.score.argmin() == 9
    assert scores.entropy[8] < 1e-6 < 0.9 < scores.entropy[7]
    assert scores.quantile(0.97).tolist() == [7]
    assert type(scores).from_dict(scores.to_dict()) == scores


def test_absent_words_warn_count_in_the_entropy_and_none_at_all_raises():
    tokens, acts, _ = random_case(1)
    with pytest.warns(MechsteerWarning, match=r"\['never'\]"):
        scores = reason_score(tokens, acts, {"a": [(3,)], "b": [(4,)], "never": [(99,)]})
    assert scores.counts["never"] == 0
    with_two = reason_score(tokens, acts, {"a": [(3,)], "b": [(4,)]})
    ratio = torch.log(torch.tensor(2.0, dtype=torch.float64)) / torch.log(torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(scores.entropy, with_two.entropy * ratio, rtol=1e-9, atol=1e-9)
    with pytest.raises(DataError, match="'never', 'nor this'"):
        reason_score(tokens, acts, {"never": [(99,)], "nor this": []})


def test_words_everywhere_warns():
    with pytest.warns(MechsteerWarning, match="cover every kept token"):
        scores = reason_score(torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3, 2), {"w": [(1,)]})
    assert scores.n_neg == 0


def test_refusals():
    tokens, acts, mask = random_case(0)
    with pytest.raises(ShapeError, match="feature_acts"):
        reason_score(tokens, acts[:, :-1], GROUPS)
    with pytest.raises(ShapeError, match="mask"):
        reason_score(tokens, acts, GROUPS, mask=mask[:2])
    with pytest.raises(ConfigError, match="window"):
        reason_score(tokens, acts, GROUPS, window=(-1, 2))
    with pytest.raises(ConfigError, match="no word groups"):
        reason_score(tokens, acts, {})
    acts[0, 0, 1] = float("inf")
    tokens[0, 0] = 3
    with pytest.raises(NonFiniteError, match="infinity"):
        reason_score(tokens, acts, GROUPS)


@pytest.mark.parametrize("seed", range(5))
def test_ratio_equals_the_definition_and_streams(seed):
    tokens, acts, _ = random_case(seed, n_rows=12)
    words = {"a": [(3,)], "b": [(5, 6), (9,)]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MechsteerWarning)
        ours = reason_ratio(tokens, acts, words, k=3, ignore_ids=[0])
        streamed = ReasonRatioAccumulator(words, acts.shape[-1], k=3, ignore_ids=[0])
        for shard in zip(tokens.split(5), acts.split(5), strict=True):
            streamed.update(*shard)
        again = streamed.result()
    expected = torch.tensor(dense_ratio(tokens.tolist(), acts.tolist(), words, 3, [0]), dtype=torch.float64)
    torch.testing.assert_close(ours.score, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(again.score, ours.score)
    assert torch.equal(again.n_prompts, ours.n_prompts)
    assert int(ours.n_prompts.sum()) <= 3 * ours.n_with_words
    assert ours.to_dict()["counts"] == ours.counts


def test_silent_features_are_in_no_prompts_top_k():
    tokens = torch.tensor([[1, 2, 3, 2]])
    acts = torch.zeros(1, 4, 5)
    acts[0, :, 2] = torch.tensor([3.0, 1.0, 0.0, 0.0])
    ratio = reason_ratio(tokens, acts, {"w": [(1,)]})
    assert ratio.score.tolist() == [0, 0, 3, 0, 0]
    assert ratio.n_prompts.tolist() == [0, 0, 1, 0, 0]
