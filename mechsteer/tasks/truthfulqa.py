"""TruthfulQA (Lin et al. 2022, arXiv 2109.07958) as MC1: the one best answer among the false ones.

Rows of its own files, mc_task.json ({"question", "mc1_targets": {answer: 1 or 0}}) and TruthfulQA.csv ("Question",
"Best Answer", "Incorrect Answers"), and of the Hugging Face dataset ("mc1_targets": {"choices", "labels"}; or
"best_answer", "incorrect_answers"). The prompt is "Q: ...\\nA:" alone: the six examples that the paper puts in front are
left out, so figures are not to be held against published ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mechsteer.prompts import Row, field_of, malformed
from mechsteer.tasks.base import Item, has_field, text_field
from mechsteer.tasks.choices import choice_item

NAME = "truthfulqa"
_NAMES = {  # of the question, the best answer, the false ones
    "csv": ("Question", "Best Answer", "Incorrect Answers"),
    "generation": ("question", "best_answer", "incorrect_answers"),
}


def is_row(row: Row) -> bool:
    """Whether a file that begins with `row` is TruthfulQA's."""
    return has_field(row, "mc1_targets") or any(all(has_field(row, n) for n in names) for names in _NAMES.values())


def item_of(row: Row, path: Path) -> Item:
    """The item of a row. Raises DataError: a missing field, or not exactly one best answer."""
    if has_field(row, "mc1_targets"):
        question = text_field(row, "question", path)
        options, labels = _targets(row, path)
    else:
        name, best, false = next((n for n in _NAMES.values() if has_field(row, n[0])), _NAMES["csv"])
        question, wrong = text_field(row, name, path), field_of(row, false, path)
        if isinstance(wrong, str):
            wrong = [text for text in wrong.split(";") if text.strip()]
        if not isinstance(wrong, list):
            raise malformed(path, row.line, f"{false!r} must hold answers, got {wrong!r:.80}")
        options = [text_field(row, best, path), *wrong]
        labels = [1] + [0] * len(wrong)
    if sum(label == 1 for label in labels) != 1:
        raise malformed(path, row.line, f"one answer must be the best, {sum(label == 1 for label in labels)} are")
    category = row.data.get("Category") or row.data.get("category")
    return choice_item(
        row,
        path,
        kind=NAME,
        prompt=f"Q: {question.strip()}\nA:",
        options=options,
        gold=labels.index(1),
        meta={} if category is None else {"category": category},
    )


def _targets(row: Row, path: Path) -> tuple[list[Any], list[Any]]:
    targets = row.data["mc1_targets"]
    if isinstance(targets, dict) and {"choices", "labels"} == targets.keys():
        options, labels = targets["choices"], targets["labels"]
        if isinstance(options, list) and isinstance(labels, list) and len(options) == len(labels):
            return options, labels
    elif isinstance(targets, dict) and targets:
        return list(targets), list(targets.values())
    raise malformed(path, row.line, f"'mc1_targets' must be {{answer: 1 or 0}}, got {targets!r:.80}")
