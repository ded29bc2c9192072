"""Generations that share what is read of their prompts say what they say alone, and read the prompts once."""

import contextlib
from unittest import mock

import pytest
import torch
import toys
from contract.examples import PromptBooster
from steering.test_leaving import ENGINES, PROMPTS, double, static

import mechsteer as ms
from mechsteer.models import runner
from mechsteer.steering.shared_prompts import leave_prompts_alone, sharing_prompts

S = ms.TokenScope
ANSWER = S.generated(include_last_prompt=True)


def widths(engine: str, calls) -> list[list[int]]:
    """Per generation, how many columns each of its forwards had."""
    seen: list[list[int]] = []
    model = double(engine)
    kind = ms.generate(model, PROMPTS[:1], max_new_tokens=1).engine
    inner = runner_of(model, kind).forward

    def counted(self, tokens, *args, **options):
        seen[-1].append(tokens.shape[1])
        return inner(self, tokens, *args, **options)

    with mock.patch.object(runner_of(model, kind), "forward", counted), sharing_prompts():
        for call in calls:
            seen.append([])
            call(model)
    return seen


def runner_of(model, kind: str) -> type[runner.Runner]:
    made = ms.models.twin_of(model) if kind == "twin" else ms.models.backend_of(model)
    return type(made.runner)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch_size", [3, None])
def test_tokens_stay(engine, batch_size):
    model = double(engine)
    arms = [(), static(1, ANSWER, 1), [static(1, S.generated(), 0), static(2, ANSWER, 2)]]
    options = {"max_new_tokens": 10, "batch_size": batch_size}
    alone = [ms.generate(model, PROMPTS, arm, **options).tokens for arm in arms]
    with sharing_prompts():
        assert [ms.generate(model, PROMPTS, arm, **options).tokens for arm in arms] == alone
        assert [ms.generate(model, PROMPTS, arm, **options).tokens for arm in reversed(arms)] == alone[::-1]
    assert len({str(tokens) for tokens in alone}) == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_prompts_are_read_once(engine):
    def generation(*arm, prompts=PROMPTS):
        return lambda model: ms.generate(model, prompts, arm, max_new_tokens=3, stop_tokens=())

    calls = [generation(), generation(static(1, ANSWER, 1)), generation(), generation(prompts=PROMPTS[:4])]
    longest = max(map(len, PROMPTS))
    assert widths(engine, calls) == [[longest - 1, 1, 1, 1], [1, 1, 1], [1, 1, 1], [longest - 1, 1, 1, 1]]


def test_who_touches_or_reads_prompts_shares_nothing():
    booster = ms.Intervention(PromptBooster(toys.D_MODEL).double(), ms.Site(1), scope=ANSWER)
    router = ms.Intervention(ms.adapters.Dictionary(32, 32).double(), 1, scope=ANSWER)  # of a summary, at every token
    for iv in (static(1, S.all(), 1), static(1, S.last_prompt(), 1), booster, router):
        assert not leave_prompts_alone(iv)
        calls = [lambda model: ms.generate(model, PROMPTS, max_new_tokens=2, stop_tokens=())]
        calls += [lambda model, iv=iv: ms.generate(model, PROMPTS, iv, max_new_tokens=2, stop_tokens=())]
        longest = max(map(len, PROMPTS))
        assert widths("twin", calls)[1] == [longest, 1]
    assert leave_prompts_alone([static(1, ANSWER, 1), static(2, S.generated(), 0)])


def test_readings_are_of_the_whole_row():
    model, iv = double("twin"), static(1, ANSWER, 1)
    recorded = [ms.generate(model, PROMPTS, iv, max_new_tokens=4, record=True)]
    with sharing_prompts():
        ms.generate(model, PROMPTS, max_new_tokens=4)
        recorded.append(ms.generate(model, PROMPTS, iv, max_new_tokens=4, record=True))
    torch.testing.assert_close(*(out.readings[0]["delta_norm"] for out in recorded), equal_nan=True)


def test_nothing_is_kept_after_the_block():
    model = double("twin")
    with contextlib.suppress(KeyError), sharing_prompts():
        ms.generate(model, PROMPTS, max_new_tokens=1)
        raise KeyError
    longest = max(map(len, PROMPTS))
    assert widths("twin", [lambda m: ms.generate(m, PROMPTS, max_new_tokens=1)]) == [[longest - 1, 1]]
