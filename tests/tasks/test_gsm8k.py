"""GSM8K's files: answers, verifier, ready-made solutions. Oracle: the labels that came with the solutions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shared_data import data_file

from mechsteer.errors import DataError
from mechsteer.tasks import load_task, read_solutions
from mechsteer.tasks.gsm8k import flexible_answer, is_correct, strict_answer

ROW = {
    "question": "Ann has 3 bags with 24 eggs in each. She sells 70. How many?",
    "answer": "Eggs: 3*24 = <<3*24=72>>72.\n\nLeft: 72-70 = <<72-70=2>>2.\n#### 2",
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("2+2 = 4\n#### 4", "4", "4"),
        ("#### $1,234,500.00\nQuestion: more\n#### 9", "1234500", "1234500"),
        ("so 5.\nA: -7", "-7", "-7"),
        ("A cat. PA: 7 of 8", None, "8"),
        (r"thus \boxed{\$42} as 6*7 = 42, not 43", None, "42"),
        ("She pays 10-3 = 7 dollars, $7.", None, "7"),
        ("That is 10-3", None, "3"),
        ("<<1+1=2>>", None, None),
        ("It falls to -4.50 degrees.", None, "-4.5"),
        ("They are 3, 400 and 12,3456", None, "3456"),
        (" 12\n\nQuestion: Tom has 5 apples.\nAnswer: 6", None, "12"),
        ("no number", None, None),
        ("", None, None),
    ],
)
def test_answers(text: str, strict: str | None, flexible: str | None) -> None:
    assert strict_answer(text) == strict
    assert flexible_answer(text) == flexible
    assert is_correct("4", text) == (flexible == "4")


def test_items(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "any name.jsonl", ROW), split=None)
    (item,) = task.items
    assert task.name == "gsm8k"
    assert item.prompt == f"Question: {ROW['question']}\nAnswer:"
    assert item.answer == "2"
    assert item.meta["n_steps"] == 2
    assert item.meta["solution"] == "Eggs: 3*24 = 72.\nLeft: 72-70 = 2."
    assert task.can_verify
    assert task.verify(item, " ... 2 eggs") is True
    assert task.verify(item, " ... 3 eggs") is False
    trace = task.trace(item, " 2", prompt=item.prompt + " Wait.", source="base", sample=4)
    assert (trace.correct, trace.n_steps, trace.style, trace.key) == (True, 2, None, (item.id, "base", 4))
    assert trace.prompt.endswith("Wait.")


def test_equal_questions_share_a_group(tmp_path: Path) -> None:
    items = load_task(write(tmp_path / "f.jsonl", ROW, ROW, ROW), split=None).items
    assert len({i.group for i in items}) == 1
    assert [i.id for i in items] == [items[0].group, f"{items[0].group}-2", f"{items[0].group}-3"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"question": "Q?", "answer": "seventy"}, "no answer of the form '#### 72'"),
        ({"question": "  ", "answer": "#### 1"}, "'question' must be a text, got '  '"),
        ({"question": "Q?", "answer": 3}, "'answer' must be a text, got 3"),
        ({"question": "Q?"}, "'ground_truth' must be a text, got None"),
        (["Q?"], "'question' must be a text"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, bad: object, message: str) -> None:
    path = write(tmp_path / "f.jsonl", ROW, bad)
    with pytest.raises(DataError, match=f"line 2: .*{message}") as caught:
        load_task(path, split=None)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_solutions(tmp_path: Path) -> None:
    row = {
        "question": ROW["question"],
        "ground_truth": "72-70 = 2\nA: 2",
        "small": {"is_correct": False, "solution": "3*24 = <<3*24=62>>62\nA: 62"},
        "large": {"is_correct": True, "solution": "A: 2"},
    }
    path = write(tmp_path / "solutions.jsonl", row)
    small, large = read_solutions(path)
    assert (small.source, small.correct, small.text) == ("small", False, " 3*24 = 62\nA: 62")
    assert (large.source, large.correct, large.n_steps) == ("large", True, 1)
    assert read_solutions(path, keep_calculations=True)[0].text == " 3*24 = <<3*24=62>>62\nA: 62"
    (item,) = load_task(write(tmp_path / "test.jsonl", ROW), split=None).items
    assert (small.item_id, small.group, small.prompt) == (item.id, item.group, item.prompt)
    for broken in ({"is_correct": 1, "solution": "A: 2"}, {"is_correct": True}):
        with pytest.raises(DataError, match="line 2: 'small' must be"):
            read_solutions(write(path, row, row | {"small": broken}))
    with pytest.raises(DataError, match="line 1: no model's"):
        read_solutions(write(path, {k: row[k] for k in ("question", "ground_truth")}))


def test_verifier_agrees_with_every_label_of_the_published_solutions() -> None:
    task = load_task(data_file("gsm8k/test.jsonl"), split=None)
    items = {item.id: item for item in task.items}
    traces = read_solutions(data_file("gsm8k/example_model_solutions.jsonl"))
    assert len(items) == 1319
    assert len(traces) == 4 * 1319
    assert [t.key for t in traces if task.verify(items[t.item_id], t.text) != t.correct] == []
    assert {t.source: sum(u.correct is True for u in traces if u.source == t.source) for t in traces[:4]} == {
        "6b_finetuning": 286,
        "6b_verification": 515,
        "175b_finetuning": 458,
        "175b_verification": 742,
    }


def test_official_split_is_kept() -> None:
    folder = data_file("gsm8k")
    parts = {split: load_task(folder, split=split) for split in ("train", "dev", "test")}
    assert len(parts["train"].items) + len(parts["dev"].items) == 7473
    assert [i.answer for i in parts["test"].items[:3]] == ["18", "3", "70000"]
    groups = [{i.group for i in part.items} for part in parts.values()]
    assert len(set.union(*groups)) == sum(map(len, groups))
