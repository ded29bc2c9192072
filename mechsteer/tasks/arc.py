"""ARC (Clark et al. 2018, arXiv 1803.05457), and other questions with options.

Rows of three forms: the Hugging Face dataset's {"question", "choices": {"text", "label"}, "answerKey"}; the harnesses'
{"query", "choices", "gold"}, which others use for their own questions; and {"instruction", "answer": "answer2"}, whose
text lists "Answer1: ... Answer2: ...". The prompt is "Question: ...\\nAnswer:".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mechsteer.prompts import Row, field_of, malformed
from mechsteer.tasks.base import Item, has_field, text_field
from mechsteer.tasks.choices import choice_item, question_prompt

NAME = "arc"
_LISTED = re.compile(r"\s*Answer(\d): ")
_ASKS = "Please choose the correct answer to the question:"
_FORMAT = "Answer format:"


def is_row(row: Row) -> bool:
    """Whether a file that begins with `row` holds questions with options."""
    if has_field(row, "instruction"):
        return has_field(row, "answer") and "Answer1:" in str(row.data["instruction"])
    return has_field(row, "choices") and has_field(row, "gold", "answerKey")


def item_of(row: Row, path: Path) -> Item:
    """The item of a row of any of the forms. Raises DataError: a missing field, or an answer that is no option."""
    if has_field(row, "instruction"):
        question, options, gold = _of_instruction(row, path)
    elif has_field(row, "answerKey"):
        question, options, gold = _of_keys(row, path)
    else:
        question, options, gold = (
            text_field(row, "query", path),
            field_of(row, "choices", path),
            field_of(row, "gold", path),
        )
    return choice_item(row, path, kind=NAME, prompt=question_prompt(question), options=options, gold=gold)


def _of_keys(row: Row, path: Path) -> tuple[str, Any, int]:
    choices, key = field_of(row, "choices", path), row.data["answerKey"]
    if isinstance(choices, list) and all(
        isinstance(c, dict) for c in choices
    ):  # one object per option, as in ARC's own files
        choices = {name: [choice.get(name) for choice in choices] for name in ("text", "label")}
    if not isinstance(choices, dict) or not {"text", "label"} <= choices.keys():
        raise malformed(path, row.line, f"'choices' must be {{'text': [...], 'label': [...]}}, got {choices!r:.80}")
    labels = list(choices["label"])
    if key not in labels:
        raise malformed(path, row.line, f"the answer key is {key!r}, the labels are {labels}")
    question = row.data.get("question")
    stem = question.get("stem") if isinstance(question, dict) else question
    if not isinstance(stem, str) or not stem.strip():
        raise malformed(path, row.line, f"'question' must be a text, got {question!r:.80}")
    return stem, choices["text"], labels.index(key)


def _of_instruction(row: Row, path: Path) -> tuple[str, list[str], int]:
    text = text_field(row, "instruction", path).partition(_FORMAT)[0].strip()
    question, *rest = _LISTED.split(text)
    numbers, options = rest[::2], [option.strip() for option in rest[1::2]]
    answer = str(field_of(row, "answer", path)).removeprefix("answer")
    if answer not in numbers or numbers != [str(i + 1) for i in range(len(numbers))]:
        raise malformed(path, row.line, f"the answer is {row.data['answer']!r}, listed are the answers {numbers}")
    return question.strip().removeprefix(_ASKS), options, int(answer) - 1
