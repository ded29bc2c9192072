"""Yes or no as the next token, against the logits of a plain forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toys

from mechsteer.errors import ConfigError
from mechsteer.evaluation.yes_no import AnswerTokens, answer_tokens, defined, yes_no

TOKENS = AnswerTokens(yes=(3, 5), no=(8, 9, 11))


def test_log_odds_and_mass_are_those_of_a_plain_forward() -> None:
    model = toys.shared("llama")
    prompts = toys.prompts(4, 9, 2, 9)
    log_odds, mass = yes_no(model, prompts, TOKENS, batch_size=3)
    for row, got, share in zip(prompts, log_odds, mass, strict=True):
        p = model(torch.tensor([row]))[0, -1].double().softmax(-1)
        yes, no = p[[3, 5]].sum(), p[[8, 9, 11]].sum()
        np.testing.assert_allclose([got, share], [(yes / no).log(), yes + no], rtol=1e-4, atol=1e-6)


def test_answers_of_less_than_half_the_mass_are_undefined() -> None:
    assert np.isnan(defined(np.array([3.0]), np.array([0.499])))[0]
    assert defined(np.array([3.0]), np.array([0.5]))[0] == 3.0


def test_answer_words_are_single_tokens() -> None:
    model = toys.shared("llama")  # its tokens are bytes
    found = answer_tokens(model, ("y", "yes", "y"), ("n",))
    assert found == AnswerTokens(yes=(ord("y") - 33,), no=(ord("n") - 33,))
    with pytest.raises(ConfigError, match="no single token for 'yes'"):
        answer_tokens(model)
    with pytest.raises(ConfigError, match="no single token for 'no'"):
        answer_tokens(model, ("y",), ("no",))
    with pytest.raises(ConfigError, match="both yes and no"):
        answer_tokens(model, ("y",), ("y", "n"))
