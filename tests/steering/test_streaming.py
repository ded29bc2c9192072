"""A generation as an iterator: the same tokens, a model that is free between the steps and after the last."""

from __future__ import annotations

import contextvars
import gc

import pytest
import steering_toys
import torch
import toys
from steering_toys import varied_stops

import mechsteer as ms
from mechsteer.errors import DataError, ScopeError
from mechsteer.runtime.session import hints

PROMPTS = toys.prompts(3, 8, 12, 5)
TOKENS = torch.tensor(PROMPTS[:1])
ENGINES = {
    "twin": ("llama", "bridge"),
    "bridge": ("neox", "bridge"),
    "bridge-compatibility": ("qwen3", "compatibility"),
    "hooked": ("gpt2", "hooked"),
}
OPTIONS = {"max_new_tokens": 8, "stop_tokens": ()}


def static(**options):
    return steering_toys.static(**{"coeff": 0.05, **options})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_steps_and_result_are_those_of_generate(engine, batch_size):
    model = toys.shared(*ENGINES[engine])
    free = ms.generate(model, PROMPTS, static(), **OPTIONS).tokens
    options = {"max_new_tokens": 8, "stop_tokens": varied_stops(free), "batch_size": batch_size, "record": True}
    expected: list[ms.generation.Step] = []
    out = ms.generate(model, PROMPTS, static(), on_token=expected.append, **options)
    steps = ms.stream(model, PROMPTS, static(), **options)
    seen = list(steps)
    assert steps.result() == out
    assert [(s.index, s.rows, s.tokens, s.texts, s.stopped) for s in seen] == [
        (s.index, s.rows, s.tokens, s.texts, s.stopped) for s in expected
    ]
    assert all(
        torch.equal(a.readings[0]["delta_norm"], b.readings[0]["delta_norm"])
        for a, b in zip(seen, expected, strict=True)
    )
    assert toys.hooks_left(model) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_between_steps_the_model_is_as_it_was(engine):
    model = toys.shared(*ENGINES[engine])
    base, texts = model(TOKENS), ms.generate(model, PROMPTS, **OPTIONS).tokens
    steered = ms.generate(model, PROMPTS, static(), **OPTIONS).tokens
    assert texts != steered
    with ms.stream(model, PROMPTS, static(), **OPTIONS) as steps:
        for step in steps:
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert torch.equal(model(TOKENS), base)
            if step.index == 3:
                assert ms.generate(model, PROMPTS, **OPTIONS).tokens == texts
    assert steps.result().tokens == steered


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("leave", ["close", "with", "drop", "raise"])
def test_leaving_frees_the_model(engine, leave):
    model = toys.shared(*ENGINES[engine])
    base, whole = model(TOKENS), ms.generate(model, PROMPTS, static(), **OPTIONS).tokens
    before = contextvars.copy_context()
    steps = ms.stream(model, PROMPTS, static(), **OPTIONS)
    first = next(steps)
    assert first.tokens == tuple(row[0] for row in whole)
    next(steps)
    if leave == "close":
        steps.close()
        steps.close()
        assert list(steps) == []
    elif leave == "with":
        with steps:
            next(steps)
    elif leave == "raise":
        with pytest.raises(KeyError), steps:
            raise KeyError
    if leave != "drop":
        out = steps.result()
        assert out.interrupted
        assert out.tokens == [row[: 3 if leave == "with" else 2] for row in whole]
    del steps
    gc.collect()
    assert toys.hooks_left(model) == 0
    assert torch.equal(model(TOKENS), base)
    assert dict(contextvars.copy_context().items()) == dict(before.items())


def test_two_streams_of_one_model_can_be_read_in_turn():
    model = toys.shared("llama")
    sides = [static(seed=1), static(seed=2, coeff=-1.0)]
    expected = [ms.generate(model, PROMPTS, side, **OPTIONS).tokens for side in sides]
    streams = [ms.stream(model, PROMPTS, side, **OPTIONS) for side in sides]
    pairs = list(zip(*streams, strict=True))
    assert len(pairs) == 8
    assert [steps.result().tokens for steps in streams] == expected
    assert expected[0] != expected[1]


def test_a_block_around_the_stream_counts():
    model = toys.shared("llama")
    with ms.steer(model, static(seed=2, layer=0)):
        expected = ms.generate(model, PROMPTS, static(), **OPTIONS).tokens
        steps = ms.stream(model, PROMPTS, static(), **OPTIONS)
        list(steps)
    assert steps.result().tokens == expected != ms.generate(model, PROMPTS, static(), **OPTIONS).tokens


def test_mistakes_are_refused_before_the_first_step():
    model = toys.shared("llama")
    with pytest.raises(DataError, match="no prompts"):
        ms.stream(model, [])
    with pytest.raises(ScopeError):
        ms.stream(model, PROMPTS, static(scope=ms.TokenScope.rows([9])))


def test_stop_ends_a_stream():
    model, asked = toys.shared("llama"), []

    def enough():
        asked.append(None)
        return len(asked) > 3

    steps = ms.stream(model, PROMPTS, static(), stop=enough, **OPTIONS)
    assert len(list(steps)) == 3
    assert steps.result().interrupted


def test_closing_leaves_the_context_that_closes_alone():
    model = toys.shared("llama")
    steps = ms.stream(model, PROMPTS, static(), **OPTIONS)
    next(steps)
    with hints(model, torch.tensor([1]), torch.tensor([0])):
        before = contextvars.copy_context()
        steps.close()
        assert dict(contextvars.copy_context().items()) == dict(before.items())
