"""load_task: names, files, splits, draws; pocket problems and free prompts as tasks."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from shared_data import data_file

from mechsteer import pocket
from mechsteer.errors import ConfigError, DataError
from mechsteer.pocket.problems import SPLITS
from mechsteer.tasks import load_task, openings


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(200)))
    return path


def test_pocket_agrees_with_its_own_verifier() -> None:
    task = load_task("pocket", 20, seed=3, split="dev")
    problems = pocket.problems(20, seed=3, split="dev")
    assert [(i.id, i.prompt, i.meta["n_steps"]) for i in task.items] == [(p.id, p.prompt, p.n_steps) for p in problems]
    for item, problem in zip(task.items, problems, strict=True):
        for text in (f" The answer is {problem.answer}.", f" The answer is {problem.answer + 1}.", "", " 7"):
            assert task.verify(item, text) is pocket.is_correct(problem, text)
    trace = task.trace(task.items[0], f" Wait, let me check: 1. The answer is {problems[0].answer}.")
    assert (trace.correct, trace.style, trace.n_steps) == (True, "careful", problems[0].n_steps)


def test_splits_are_disjoint_and_fixed(prompts: Path) -> None:
    parts = {split: [i.id for i in load_task(prompts, split=split).items] for split in SPLITS}
    everything = load_task(prompts, split=None).items
    assert sorted(itertools.chain(*parts.values())) == sorted(i.id for i in everything)
    assert [len(parts[s]) / 200 for s in SPLITS] == pytest.approx([0.5, 0.1, 0.4], abs=0.1)
    # adding rows moves none from one split to another
    prompts.write_text(prompts.read_text() + '{"prompt": "one more"}\n')
    for split in SPLITS:
        now = [i.id for i in load_task(prompts, split=split).items]
        assert [i for i in now if i in parts[split]] == parts[split]


def test_draws_depend_on_the_seed_and_a_shorter_begins_a_longer(prompts: Path) -> None:
    short, long = (load_task(prompts, n, seed=1, split=None) for n in (5, 50))
    assert long.items[:5] == short.items
    assert load_task(prompts, 5, seed=2, split=None).items != short.items
    assert load_task(prompts, 5, seed=1, split=None).data_hash == short.data_hash != long.data_hash


def test_rows_of_one_group_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "grouped.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"t{i}", "id": i, "group": i % 7, "topic": "x"}) + "\n" for i in range(70))
    )
    groups = [{i.group for i in load_task(path, split=split).items} for split in ("train", "test")]
    assert not groups[0] & groups[1]
    item = load_task(path, split=None).items[12]
    assert (item.id, item.group, item.answer, item.meta) == ("12", "5", None, {"topic": "x"})


def test_free_prompts_cannot_be_verified(prompts: Path) -> None:
    task = load_task(prompts, 2)
    assert not task.can_verify
    assert task.verify(task.items[0], "200") is None
    assert task.trace(task.items[0], "x").correct is None


def test_openings(tmp_path: Path) -> None:
    path = tmp_path / "stories.json"
    path.write_text(json.dumps(["Once  upon a time\nthere was", "Too short"]))
    (item,) = openings(load_task(path, split=None), 3).items
    assert (item.prompt, item.meta["continuation"]) == ("Once  upon a", " time\nthere was")
    with pytest.raises(ConfigError, match="n_words is 0"):
        openings(load_task(path, split=None), 0)


def test_stories() -> None:
    task = load_task(data_file("text/tinystories_1000.json"), split=None)
    assert task.name == "tinystories_1000"
    assert len({i.id for i in task.items}) == 1000
    assert task.items[0].prompt.startswith("One day, a little girl named Lily")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        ('{"prompt": "a"}\n\n{"prompt": ""}\n', "line 3: 'prompt' must be a text"),
        ('{"turns": ["a"]}\n', r"line 1: neither a problem nor a prompt: its fields are \['turns'\]"),
        ("3\n", "line 1: neither a problem nor a prompt: it is 3"),
        ("\n", "no rows"),
        ('{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}\n{"text": "c", "id": "x-2"}\n', "cannot be told apart"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_task(path, split=None)


def test_bad_requests(tmp_path: Path, prompts: Path) -> None:
    with pytest.raises(ConfigError, match="no split 'val'"):
        load_task(prompts, split="val")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="n is 0"):
        load_task(prompts, 0)
    with pytest.raises(ConfigError, match="no end"):
        load_task("pocket")
    with pytest.raises(ConfigError, match="is a folder"):
        load_task(tmp_path, split=None)
    with pytest.raises(DataError, match=r"cannot read .*test\.jsonl"):
        load_task(tmp_path)
    with pytest.raises(DataError, match="has 200 items, 201 asked for"):
        load_task(prompts, 201, split=None)
