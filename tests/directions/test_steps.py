"""Steps of traces: found at their separators, named by their words, and the SEAL direction against a plain loop."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.directions import labelled_steps, seal_direction, separator_ids, step_direction, step_kind
from mechsteer.errors import ConfigError, DataError
from mechsteer.models import tokenize
from mechsteer.tasks import Trace

NEWLINE = "\n"


def trace(text, prompt="Q: 1+1?\nA:"):
    return Trace(item_id="p", group="p", prompt=prompt, text=text, correct=None)


TRACES = [
    trace("First.\nOne and one.\nWait, is it?\nSo two.\n\n"),
    trace(" Let us add.\nAlternatively count.\nIt is two.\nThat seems right."),
    trace("Two."),
]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Wait, no", "reflection"),
        ("  wait", "reflection"),
        ("I will wait here", "execution"),
        ("Let me check the sum", "reflection"),
        ("Make sure of it", "reflection"),
        ("so that's incorrect", "reflection"),
        ("Alternatively, add", "transition"),
        ("or, alternatively, add", "execution"),
        ("Is there another approach?", "transition"),
        ("Another way to verify it", "reflection"),  # reflection is looked for first
        ("2 + 2 = 4", "execution"),
    ],
)
def test_a_step_is_named_by_its_words(text, kind):
    assert step_kind(text) == kind


def test_steps_begin_behind_their_separators_and_within_the_text():
    model = toys.shared("llama")
    n_prompt = len(tokenize(model, [TRACES[0].prompt])[0])
    steps = labelled_steps(model, TRACES[0], separator=NEWLINE)
    breaks = [i for i, char in enumerate(TRACES[0].text) if char == NEWLINE]  # one byte a token
    assert steps.positions == tuple(n_prompt + i for i in breaks[:3])  # behind the last two there is nothing
    assert steps.kinds == ("execution", "reflection", "execution")
    assert model.tokenizer.decode(list(steps.tokens[steps.positions[1] :])).startswith("\nWait, is it?")
    assert labelled_steps(model, TRACES[2], separator=NEWLINE).positions == ()


def test_steps_can_be_named_otherwise():
    steps = labelled_steps(
        toys.shared("llama"),
        TRACES[0],
        separator=NEWLINE,
        kind_of=lambda text: "transition" if "two" in text else "execution",
    )
    assert steps.kinds == ("execution", "execution", "transition")


def test_every_token_that_holds_the_separator_ends_a_step():
    texts = ["a", ".\n\n", "\n", "\n\n\n", "\n \n"]
    tokenizer = SimpleNamespace(decode=lambda ids, **_: "".join(texts[i] for i in ids))
    tokenizer = type("Words", (), {"__len__": lambda _: len(texts), "decode": staticmethod(tokenizer.decode)})()
    model = SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(d_vocab=10))
    assert separator_ids(model) == [1, 3]
    assert separator_ids(model, "\n") == [1, 2, 3, 4]


@pytest.mark.parametrize(("family", "kind"), [("llama", "bridge"), ("gpt2", "hooked")])
def test_the_direction_is_the_difference_of_means_in_front_of_the_steps(family, kind):
    model, site = toys.shared(family, kind), ms.Site(1)
    sides = {True: [], False: []}
    for each in TRACES:
        prompt = tokenize(model, [each.prompt])[0]
        text = model.tokenizer.encode(each.text, add_special_tokens=False)
        seen = []
        with torch.no_grad():
            model.run_with_hooks(
                torch.tensor([[*prompt, *text]]),
                fwd_hooks=[(site.resolve(model), lambda acts, hook, seen=seen: seen.append(acts[0].clone()))],
            )
        lines, at = each.text.split(NEWLINE), len(prompt) - 1
        for line, after in itertools.pairwise(lines):
            at += len(line) + 1
            if after:
                sides[step_kind(after) == "execution"].append(seen[0][at])
    expected = torch.stack(sides[True]).mean(0) - torch.stack(sides[False]).mean(0)
    assert (len(sides[True]), len(sides[False])) == (3, 3)
    found = seal_direction(model, TRACES, site, separator=NEWLINE, batch_size=2)
    torch.testing.assert_close(found.vector, expected, rtol=0, atol=5e-5)
    assert found.name == "seal"
    assert found.site == site
    assert (found.provenance["n_pos"], found.provenance["n_neg"]) == (3, 3)


def test_chunks_do_not_change_the_direction():
    model = toys.shared("llama")
    steps = [labelled_steps(model, each, separator=NEWLINE) for each in TRACES]
    whole, one = (step_direction(model, steps, 1, chunk=chunk).vector for chunk in (256, 1))
    torch.testing.assert_close(whole, one)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda model: separator_ids(model), ConfigError, r"no token of this model holds the separator '\n\n'"),
        (lambda model: separator_ids(model, ""), ConfigError, "steps need a tokenizer and a separator"),
        (
            lambda model: seal_direction(model, TRACES[2:], 1, separator=NEWLINE),
            DataError,
            "of 0 steps 0 are execution",
        ),
        (
            lambda model: seal_direction(model, [trace("a\nb\nc")], 1, separator=NEWLINE),
            DataError,
            "of 2 steps 2 are execution: the direction needs both sides",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        make(toys.shared("llama"))
    assert caught.value.hint
