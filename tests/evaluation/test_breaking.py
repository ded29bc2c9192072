"""A text breaks where the base model would not have written it."""

import numpy as np
import pytest

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import log_likelihoods, text_breaks
from mechsteer.evaluation.likelihoods import token_log_likelihoods


@pytest.fixture(scope="module")
def model():
    return ms.load_model("voices")


def test_noise_breaks_and_the_models_own_text_does_not(model):
    own = ms.generate(model, ["Tell me about Tom.", "What is new?"], max_new_tokens=12)
    noise = [[(37 * i + 11) % model.cfg.d_vocab for i in range(12)], []]
    prompts = own.prompt_tokens
    found = text_breaks(model, prompts * 2, [*own.tokens, *noise], max_new_tokens=12, n_own=8)
    assert found.breaks.tolist() == [False, False, True, False]
    assert np.isnan(found.losses[3])
    loss = -log_likelihoods(model, [(prompts[0], own.tokens[0])])[0] / len(own.tokens[0])
    assert found.losses[0] == pytest.approx(loss, rel=1e-6)
    assert found.n_own == 8


def test_where_a_text_breaks_is_where_noise_begins(model):
    own = ms.generate(model, ["Tell me about Tom.", "What is new?"], max_new_tokens=20)
    noise = [(37 * i + 11) % model.cfg.d_vocab for i in range(6)]
    texts = [[*own.tokens[0][:7], *noise], own.tokens[1], noise[:2], []]
    found = text_breaks(model, own.prompt_tokens * 2, texts, max_new_tokens=20)
    assert found.begins == (7, None, 0, None)
    tokens = token_log_likelihoods(model, [(own.prompt_tokens[0], own.tokens[0]), (own.prompt_tokens[1], noise)])
    whole = log_likelihoods(model, [(own.prompt_tokens[0], own.tokens[0]), (own.prompt_tokens[1], noise)])
    assert [len(each) for each in tokens] == [len(own.tokens[0]), 6]
    assert [each.sum() for each in tokens] == pytest.approx(whole, rel=1e-6)
    for i in (0, 3):  # of a token: by the prompt with all before it
        alone = log_likelihoods(model, [(own.prompt_tokens[1] + noise[:i], noise[i : i + 1])])[0]
        assert tokens[1][i] == pytest.approx(alone, rel=1e-5)


def test_what_cannot_be(model):
    with pytest.raises(DataError, match="1 prompts for 2 texts"):
        text_breaks(model, [[1]], [[1], [2]])
    with pytest.raises(ConfigError, match="quantile=1"):
        text_breaks(model, [[1]], [[1]], quantile=1)
