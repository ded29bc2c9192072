"""Problems by their steps and operations: train on some, test on others."""

from __future__ import annotations

import json

import pytest

from mechsteer import pocket
from mechsteer.errors import ConfigError, DataError
from mechsteer.tasks import load_task


def test_steps_of_pocket_problems():
    for steps in ((1, 2), (3, 4), (4,)):
        found = load_task("pocket", 60, split="dev", steps=steps)
        assert {item.meta["n_steps"] for item in found.items} == set(steps)
    longer = load_task("pocket", 80, split="dev", steps=(1, 2))
    assert longer.items[:60] == load_task("pocket", 60, split="dev", steps=(1, 2)).items


def test_one_operation_is_left_out_and_tested():
    without = load_task("pocket", 80, split="train", without="multiplication")
    containing = load_task("pocket", 80, split="test", containing="multiplication")
    assert all("multiplication" not in item.meta["operations"] for item in without.items)
    assert all("multiplication" in item.meta["operations"] for item in containing.items)
    # told from the text as well: what is left out is not told in other words
    assert not any("times as many" in item.prompt or "in each" in item.prompt for item in without.items)
    assert all("times as many" in item.prompt or "in each" in item.prompt for item in containing.items)


def test_nothing_named_is_everything_as_it_was():
    plain = load_task("pocket", 30, seed=2, split="test")
    assert [item.id for item in plain.items] == [p.id for p in pocket.problems(30, seed=2, split="test")]
    assert load_task("pocket", 30, seed=2, split="test", steps=(1, 2, 3, 4)).items == plain.items


def test_steps_of_a_file(tmp_path):
    path = tmp_path / "problems.jsonl"
    answers = ["a = 1\n#### 1", "a = 1\nb = 2\n#### 2", "a = 1\nb = 2\nc = 3\n#### 3"]
    path.write_text("".join(json.dumps({"question": f"Q{i}?", "answer": a}) + "\n" for i, a in enumerate(answers)))
    assert [item.answer for item in load_task(path, split=None, steps=(1, 3)).items] == ["1", "3"]
    with pytest.raises(DataError, match="do not tell their operations"):
        load_task(path, split=None, without="addition")
    with pytest.raises(DataError, match="has 1 items, 2 asked for"):
        load_task(path, 2, split=None, steps=(2,))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"steps": (0,)}, r"steps is \[0\]"),
        ({"steps": (True,)}, r"steps is \[True\]"),
        ({"steps": (5,)}, "pocket problems have 1 to 4 steps"),
        ({"without": "division"}, "no operation 'division'"),
        ({"containing": "addition", "without": "addition"}, "with and without 'addition'"),
    ],
)
def test_what_no_problem_can_be(named, message):
    with pytest.raises(ConfigError, match=message):
        load_task("pocket", 5, **named)


def test_too_few_are_said():
    with pytest.raises(DataError, match="different problems found for split 'test'"):
        load_task("pocket", 400, split="test", steps=(1,), containing="multiplication")
