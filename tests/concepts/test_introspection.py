"""Introspection on models that are built to notice, to say yes to everything, and to say nothing."""

import math

import pytest
import torch
import toys
from concept_toys import own
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mechsteer.concepts import introspect, introspection, yes_or_no
from mechsteer.directions import Direction
from mechsteer.errors import ConfigError
from mechsteer.models.native import native_model
from mechsteer.models.sites import Site

WORDS = ["[UNK]", "asked", "other", "yes", "no", "bread", "rain", "well"]
YES, NO, BREAD, RAIN, WELL = (WORDS.index(word) for word in ("yes", "no", "bread", "rain", "well"))
D_MODEL = 64
SITE = Site(0, "resid_post")
CONCEPTS = [own(name, name) for name in ("bread", "rain")]


def answering(*, always=None, notices=True, says_what=True):
    """A model that answers "no", or `always`; "yes" where one of two directions is injected, and then what it is about.

    Coordinates of the residual stream: 0 and 1 are the concepts, 2 is constant, 3 the last word being yes or no, 4 the other
    question, 5 either question. `notices=False`: an injection makes it say yes to any question.
    """
    embed, out = torch.zeros(len(WORDS), D_MODEL), torch.zeros(D_MODEL, len(WORDS))
    embed[:, 2] = 5
    embed[[YES, NO], 3] = 200
    embed[WORDS.index("other"), 4] = 200
    embed[[WORDS.index("asked"), WORDS.index("other")], 5] = 200
    out[2, NO if always is None else always] = 2
    out[:2, YES] = 2
    if notices:
        out[4, YES] = -1
    if says_what:
        out[3, [YES, NO]] = -1
        out[0, BREAD], out[1, RAIN], out[5, [BREAD, RAIN]] = 1, 1, -1
        out[3, WELL] = 0.025
    shape = {"d_model": D_MODEL, "n_layers": 1, "n_heads": 1, "d_head": 4, "d_mlp": 4, "n_ctx": 32, "act_fn": "relu"}
    weights = {"embed.W_E": embed, "unembed.W_U": out}
    model = native_model({**shape, "d_vocab": len(WORDS)}, weights)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[UNK]")
    return model


def at_site(vector):
    return Direction(vector, {"method": "drawn", "site": SITE.to_dict()})


def found(model, **changes):
    vectors = [at_site(torch.eye(D_MODEL)[i] * 10) for i in range(2)]
    how = {"strength": 1.0, "unit": "raw", "asked": "asked", "other": "other", "chat": False, "max_new_tokens": 2}
    return introspect(model, CONCEPTS, vectors, **{**how, "temperature": 0.0, "n_answers": 2, **changes})


def test_a_model_that_notices_is_found_to_and_names_what_it_noticed():
    result = found(answering())
    assert (result.detection, result.false_positives, result.random, result.other_question) == (1, 0, 0, 0)
    assert (result.named, result.named_by_chance, result.unclear) == (1, 0, 0)
    assert result.beyond_nothing.value == 1
    assert result.notices
    assert {trial.arm for trial in result.trials} == {"injected", "nothing", "random", "other question"}
    assert len(result.trials) == 2 * 4 * 2


def test_who_always_says_yes_has_noticed_nothing():
    result = found(answering(always=YES, notices=False))
    assert (result.detection, result.false_positives, result.other_question) == (1, 1, 1)
    assert result.beyond_nothing.value == 0
    assert not result.notices


def test_a_vector_that_makes_a_model_say_yes_to_anything_is_no_introspection():
    result = found(answering(notices=False))
    assert (result.detection, result.false_positives, result.other_question) == (1, 0, 1)
    assert result.beyond_nothing.low > 0
    assert not result.notices


def test_answers_that_are_neither_are_counted_as_such():
    result = found(answering(always=WELL, says_what=False), strength=1e-9)
    assert (result.detection, result.unclear) == (0, 1)
    judged = found(answering(always=WELL, says_what=False), strength=1e-9, heard=lambda text: "well" in text)
    assert (judged.detection, judged.false_positives, judged.unclear) == (1, 1, 0)
    assert not judged.notices


def test_what_is_answered_unsteered_is_asked_anew_beside_each_concept(monkeypatch):
    asked, real = [], introspection.generate

    def watched(model, prompts, iv, **options):
        asked.append((iv == (), options["seed"]))
        return real(model, prompts, iv, **options)

    monkeypatch.setattr(introspection, "generate", watched)
    found(answering(), temperature=1.0, seed=5)
    assert [seed for is_unsteered, seed in asked if is_unsteered] == [5, 6]
    assert sorted(seed for _, seed in asked) == [5] * 4 + [6] * 4  # the arms of a concept share theirs


@pytest.mark.parametrize(
    ("answer", "heard"), [("No. Yes?", False), ("yesterday", None), ("\n\nYES!", True), ("", None)]
)
def test_the_first_yes_or_no_counts(answer, heard):
    assert yes_or_no(answer) is heard


def test_what_cannot_be_asked_is_refused():
    model = toys.shared("llama")
    vector = at_site(torch.ones(toys.D_MODEL))
    with pytest.raises(ConfigError, match="1 concepts, 1 vectors"):
        introspect(model, CONCEPTS[:1], [vector], strength=1.0)
    with pytest.raises(ConfigError, match="2 concepts, 1 vectors"):
        introspect(model, CONCEPTS, [vector], strength=1.0)
    with pytest.raises(ConfigError, match="does not know its site"):
        introspect(model, CONCEPTS, [Direction(vector.vector, {"method": "drawn"})] * 2, strength=1.0)
    with pytest.raises(ConfigError, match="chat template"):
        introspect(model, CONCEPTS, [vector, vector], strength=1.0, unit="raw")
    with pytest.raises(ConfigError, match="finite"):
        introspect(model, CONCEPTS, [vector, vector], strength=math.nan, chat=False, asked="a", other="b")
