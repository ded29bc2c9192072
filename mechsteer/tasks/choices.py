"""Problems with options to choose from: what their readers share.

`MultipleChoice` (mechsteer.evaluation) scores them by the likelihood of each option behind the prompt: the options
stand in `meta["options"]` with their leading space, and the answer is one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mechsteer.prompts import Row, malformed
from mechsteer.tasks.base import Item, Trace, text_id


def choice_item(
    row: Row,
    path: Path,
    *,
    kind: str,
    prompt: str,
    options: Any,
    gold: Any,
    group: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Item:
    """The item of a row, whose right option is number `gold` (from 0). Its id is a hash of prompt and options, its
    `group` one of the prompt: a question that is asked twice stays in one split.

    Raises DataError for fewer than two options, blank ones, and a `gold` that is none of them.
    """
    if not isinstance(options, Sequence) or isinstance(options, str) or len(options) < 2:
        raise malformed(path, row.line, f"two options or more are needed, got {options!r:.80}")
    blank = next((option for option in options if not isinstance(option, str) or not option.strip()), None)
    if blank is not None:
        raise malformed(path, row.line, f"an option must be a text, got {blank!r:.80}")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(options):
        raise malformed(path, row.line, f"the right option is {gold!r}, there are {len(options)}, counted from 0")
    texts = [f" {option.strip()}" for option in options]
    name = f"{kind}-{text_id(repr((prompt, texts)))}"
    known = {**(meta or {}), "options": texts, "worked": texts[gold]}
    return Item(id=name, prompt=prompt, answer=texts[gold], group=group or f"{kind}-{text_id(prompt)}", meta=known)


def option_traces(item: Item, source: str) -> list[Trace]:
    """Every option of an item as a text behind its prompt, right for the answer and wrong for the others."""
    return [
        Trace(
            item_id=item.id,
            group=item.group,
            prompt=item.prompt,
            text=option,
            correct=option == item.answer,
            source=source,
            sample=number,
        )
        for number, option in enumerate(item.meta["options"])
    ]


def question_prompt(question: str) -> str:
    """As the public harnesses put a question.

    >>> question_prompt("Question: Why?")
    'Question: Why?\\nAnswer:'
    """
    question = question.strip().removeprefix("Question:").removesuffix("Answer:").strip()
    return f"Question: {question}\nAnswer:"
