"""Chat templates against transformers' own tokenisation of them; one BOS; errors that say what is missing."""

from __future__ import annotations

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.prompts import chat_texts, chat_tokens

TURNS = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + TURNS
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "2+2"}]


def model_with(template):
    model = toys.load("llama")
    model.tokenizer.chat_template = template
    return model


@pytest.mark.parametrize("template", [TURNS, WITH_BOS])
def test_tokens_are_those_that_transformers_makes(template):
    model = model_with(template)
    for conversation, messages in (("Hello", [{"role": "user", "content": "Hello"}]), (TALK, TALK)):
        expected = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert chat_tokens(model, [conversation]) == [expected]
        assert chat_tokens(model.tokenizer, [conversation]) == [expected]
    assert chat_texts(model, ["Hello"])[0].endswith("[user]Hello\n[assistant]")


def test_generate_and_stream_take_conversations():
    model = model_with(WITH_BOS)
    rows = chat_tokens(model, ["Hello", TALK])
    assert [row.count(model.tokenizer.bos_token_id) for row in rows] == [1, 1]
    steering = ms.Intervention(ms.adapters.Static(toys.vector(1)), ms.Site(1))
    options = {"max_new_tokens": 5, "stop_tokens": ()}
    out = ms.generate(model, ["Hello", TALK], steering, chat=True, **options)
    assert out == ms.generate(model, rows, steering, **options)
    steps = ms.stream(model, ["Hello", TALK], steering, chat=True, **options)
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert steps.result() == out
    assert ms.generate(model, ["Hello"], **options).prompt_tokens != out.prompt_tokens[:1]


@pytest.mark.parametrize("template", [TURNS, WITH_BOS])
def test_there_is_one_bos_or_none_also_where_the_text_is_tokenised_as_text(template):
    """What `chat_texts` gives goes wherever texts go: the model adds no second BOS."""
    model = model_with(template)
    bos = model.tokenizer.bos_token_id
    assert ms.models.tokenize(model, chat_texts(model, ["Hello"]))[0].count(bos) == 1
    model.tokenizer.chat_template = "{{ bos_token }}" + WITH_BOS  # one that writes two
    assert chat_tokens(model, ["Hello"])[0].count(bos) == 1
    acts = ms.capture(model, chat_texts(model, ["Hello"]), [ms.Site(1)], progress=False)
    assert torch.isfinite(acts[ms.Site(1)].flat()).all()


def test_options_reach_the_template():
    model = model_with("{{ mood }}" + TURNS)
    assert chat_texts(model, ["Hi"], mood="calm")[0].startswith("calm[user]Hi")


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("Hello", "prompts is one string"),
        ([[1, 2, 3]], r"conversation 0 is \[1, 2, 3\]"),
        ([[]], "conversation 0 is"),
        ([TALK, [{"role": "user"}]], "conversation 1 is"),
        (["Hi", ""], "conversation 1 has an empty message"),
        ([[{"role": "system", "content": "Be brief"}]], "the chat template refuses conversation 0: no system role"),
    ],
)
def test_what_is_no_conversation_is_refused(prompts, message):
    with pytest.raises(DataError, match=message):
        ms.generate(model_with(TURNS), prompts, chat=True)


def test_models_without_a_template_or_tokenizer_say_so():
    with pytest.raises(ConfigError, match="has no chat template"):
        ms.generate(toys.shared("llama"), ["Hi"], chat=True)
    model = toys.load("llama")
    model.tokenizer = None
    with pytest.raises(ConfigError, match="no tokenizer, so no chat template"):
        ms.stream(model, ["Hi"], chat=True)
