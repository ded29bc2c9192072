"""Ordinary words beside the vocabulary: the same formula, and features of both kinds planted."""

import pytest
import torch

from mechsteer.errors import DataError
from mechsteer.features import MatchedLists, MatchedWordsAccumulator, reason_score

N_TOKENS, D_SAE = 40, 12
GROUPS = {"wait": [(1,)], "hmm": [(2,)], "but": [(3,)], "never": [(99,)]}


def corpus(seed=0, n_rows=60, n_pos=40):
    """Tokens of one frequency each, in random order; no word says anything of the next."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, N_TOKENS, (n_rows, n_pos), generator=generator)
    acts = 0.05 * torch.rand(n_rows, n_pos, D_SAE, generator=generator)
    return tokens, acts


def fired_on(tokens, acts, feature, ids):
    acts = acts.clone()
    acts[..., feature] += torch.isin(tokens, torch.tensor(ids)).float()
    return acts


def matched(tokens, acts, mask=None, n_lists=39, shards=7):
    lists = MatchedLists(GROUPS)
    lists.update(tokens, mask)
    drawn = lists.draw(lambda token: f"w{token}", n_lists=n_lists)
    accumulator = MatchedWordsAccumulator(drawn, D_SAE, n_words=len(GROUPS))
    for start in range(0, len(tokens), shards):
        part = slice(start, start + shards)
        accumulator.update(tokens[part], acts[part], None if mask is None else mask[part])
    return drawn, accumulator.result(reason_score(tokens, acts, GROUPS, mask=mask), lambda token: f"w{token}")


@pytest.mark.filterwarnings("ignore::mechsteer.features.MechsteerWarning")
def test_each_list_is_scored_as_the_vocabulary_is():
    tokens, acts = corpus()
    acts = fired_on(tokens, acts, 3, [7, 8])
    mask = torch.arange(tokens.shape[1]) < torch.randint(20, 41, (len(tokens), 1))
    acts = torch.where(mask[..., None], acts, torch.nan)
    drawn, result = matched(tokens, acts, mask)
    for words, maximum, n in zip(drawn, result.maxima, result.n_matches, strict=True):
        groups = {str(ids): [ids] for ids in words} | {"never": [(99,)]}
        one = reason_score(tokens, acts, groups, mask=mask)
        torch.testing.assert_close(one.score.max(), maximum, rtol=1e-9, atol=1e-12)
        assert sum(one.counts.values()) == n
    assert len({tuple(words) for words in drawn}) > 20


@pytest.mark.filterwarnings("ignore::mechsteer.features.MechsteerWarning")
def test_lists_match_in_number_and_frequency_and_share_no_token():
    tokens, acts = corpus()
    drawn, result = matched(tokens, acts)
    for words in drawn:
        assert len(words) == len(set(words)) == 3  # "never" does not occur
        assert {1, 2, 3}.isdisjoint(token for ids in words for token in ids)
    assert all(abs(n / result.n_vocabulary - 1) < 0.1 for n in result.n_matches)


@pytest.mark.filterwarnings("ignore::mechsteer.features.MechsteerWarning")
def test_a_feature_of_the_vocabulary_is_told_from_one_of_ordinary_words():
    tokens, acts = corpus()
    reasoning = matched(tokens, fired_on(tokens, acts, 5, [1, 2, 3]))[1]
    assert reasoning.p_best == pytest.approx(1 / 40)
    assert reasoning.p_feature[5] == reasoning.p_any[5] == pytest.approx(1 / 40)
    assert reasoning.p_any.sort().values[1] > 0.05  # no other feature
    ordinary = fired_on(tokens, acts, 5, list(range(10, 20)))  # some lists have such words, the vocabulary has none
    assert matched(tokens, ordinary)[1].p_best > 0.05


@pytest.mark.filterwarnings("ignore::mechsteer.features.MechsteerWarning")
def test_a_word_that_stands_behind_the_vocabulary_is_not_ordinary():
    tokens, acts = corpus()
    tokens[tokens == 30] = 31
    after = torch.roll(torch.isin(tokens, torch.tensor([1, 2, 3])), 1, 1)
    after[:, 0] = False
    tokens[after] = 30  # like "check" behind "let me"
    assert all((30,) not in words for words in matched(tokens, acts)[0])


def test_longer_spellings_are_matched_by_as_many_tokens():
    tokens, _ = corpus()
    lists = MatchedLists({"let me": [(1, 2)], "but": [(3,)]})
    lists.update(tokens)
    for words in lists.draw(lambda token: f"w{token}", n_lists=9):
        assert sorted(map(len, words)) == [1, 2]


def test_where_there_is_no_null():
    tokens, _ = corpus()
    lists = MatchedLists({"never": [(99,)]})
    lists.update(tokens)
    with pytest.raises(DataError, match="no word of the vocabulary occurs"):
        lists.draw(str)
    lists = MatchedLists(GROUPS)
    lists.update(tokens)
    with pytest.raises(DataError, match="have only 0 ordinary ones"):
        lists.draw(str)  # no spelling has a letter
