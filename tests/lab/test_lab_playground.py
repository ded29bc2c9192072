"""The playground without a browser: both texts are those of `generate`, and nobody touches another's."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import extras
import pytest
from lab_toys import HOSTILE, PROMPT, beside, pirate

import mechsteer as ms
from mechsteer.errors import ConfigError
from mechsteer.lab import playground
from mechsteer.lab.handling import shown
from mechsteer.lab.playground import Decoding
from mechsteer.lab.visitors import Visitors

pytestmark = extras.needs_lab


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "seed": 3}])
def test_both_texts_are_those_of_generate(bench, how):
    pair = beside(bench, pirate(), **how)
    steps = list(pair.steps(lambda: False))
    options = {"max_new_tokens": 8, **how}
    base, steered = (ms.generate(bench.model, [PROMPT], ivs, **options).texts[0] for ivs in ((), pair.iv))
    assert (steps[-1][0].base, steps[-1][0].steered) == (base, steered)
    assert base != steered
    assert len(steps) == 9  # the steered text is a token ahead
    assert (steps[0][0].base, steps[0][0].steered) == (
        "",
        ms.generate(bench.model, [PROMPT], pair.iv, **{**options, "max_new_tokens": 1}).texts[0],
    )
    assert steered.startswith(steps[0][0].steered)


@pytest.mark.parametrize("unit", ["raw", "residual", "kl"])
def test_at_strength_0_both_are_identical(bench, unit):
    *_, (last, _, _) = beside(bench, pirate(0.0, unit=unit), temperature=1.0).steps(lambda: False)
    assert last.base == last.steered != ""


def test_stop_ends_the_text_and_frees_the_model(bench):
    visitors = Visitors()
    event, seen = visitors.begin("somebody"), []
    for written, _, _ in beside(bench, pirate()).steps(event.is_set):
        seen.append(written)
        visitors.stop("somebody")
    assert len(seen) == 1
    again = ms.generate(bench.model, [PROMPT], max_new_tokens=8).texts
    *_, (free, _, _) = beside(bench, pirate(0.0)).steps(lambda: False)
    assert [free.base] == again
    older, newer = visitors.begin("somebody"), visitors.begin("somebody")
    assert (older.is_set(), newer.is_set()) == (True, False)
    assert [visitors.is_newest("somebody", each) for each in (older, newer)] == [False, True]
    visitors.leave("somebody")
    assert newer.is_set()
    assert not visitors.is_newest("somebody", newer)


def test_a_visitor_who_stops_does_not_wait_for_what_is_measured(bench, monkeypatch):
    *_, last = beside(bench, pirate()).steps(lambda: False)
    frame = playground.compared(bench.model, *last, Decoding(max_new_tokens=8), lambda: True)
    assert "whether the text breaks was not measured" in frame
    calls = iter([False, False, True])
    frame = playground.compared(bench.model, *last, Decoding(max_new_tokens=8), lambda: next(calls))
    assert "whether the text breaks was not measured" in frame


def test_a_hundred_texts_at_once_do_not_touch_each_other(bench):
    names = ("pirate", "sad", "happy", "formal")
    choices = [*(pirate(2.0 + 0.25 * i, name=name) for i, name in enumerate(names)), pirate(0.0)]

    def visit(choice):
        return list(beside(bench, choice, temperature=1.0).steps(lambda: False))[-1][0]

    alone = [visit(choice) for choice in choices]
    assert len({written.steered for written in alone}) == len(choices)
    ready = threading.Barrier(len(choices))

    def visits(choice):
        ready.wait()
        return [visit(choice) for _ in range(20)]

    with ThreadPoolExecutor(len(choices)) as pool:
        for expected, found in zip(alone, pool.map(visits, choices), strict=True):
            assert found == [expected] * 20


def test_text_of_a_model_is_never_markup(bench):
    *_, (written, steered, base) = beside(bench, pirate()).steps(lambda: False)
    hostile = replace(written, prompt=HOSTILE, base=HOSTILE, steered=HOSTILE)
    frame = playground.compared(bench.model, hostile, steered, base, Decoding(max_new_tokens=8))
    assert frame.startswith("<iframe")
    assert 'sandbox="allow-scripts"' in frame
    assert "<img" not in frame
    assert "&lt;img" not in frame.replace("&amp;lt;img", "")
    error = shown(ConfigError(HOSTILE, HOSTILE))
    assert "<" not in error.message
    assert "&lt;img" in error.message


def test_the_text_that_breaks_is_marked(bench):
    *_, last = beside(bench, pirate(9.0)).steps(lambda: False)
    frame = playground.compared(bench.model, *last, Decoding(max_new_tokens=8))
    assert re.search(r"The text breaks here: from token \d of 8 on", frame)
    assert "⚠ text breaks here" in frame
    *_, calm = beside(bench, pirate(0.0)).steps(lambda: False)
    assert "text breaks" not in playground.compared(bench.model, *calm, Decoding(max_new_tokens=8))


@pytest.mark.parametrize("begins", [0, 3, 7])
def test_the_mark_stands_before_the_token_where_the_text_breaks(bench, begins):
    (row,) = ms.generate(bench.model, [PROMPT], max_new_tokens=8).tokens
    at = playground._character(bench.model, row, begins)
    before = ms.generate(bench.model, [PROMPT], max_new_tokens=begins).texts[0] if begins else ""
    assert at == len(before)
    assert playground._character(bench.model, row, None) is None
