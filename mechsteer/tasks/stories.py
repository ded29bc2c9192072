"""Free prompts and stories: texts without a right answer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from mechsteer.errors import ConfigError
from mechsteer.prompts import Row
from mechsteer.tasks.base import Item, Task, has_field, text_field, text_id

FIELDS = ("prompt", "text")
_WORD = re.compile(r"\S+")
_END = re.compile(r"[.!?][\"'”’)]*(?=\s+\S)")  # of a sentence, with more behind it


def is_row(row: Row) -> bool:
    """Whether a file that begins with `row` holds prompts."""
    return isinstance(row.data, str) or has_field(row, *FIELDS)


def item_of(row: Row, path: Path) -> Item:
    """The item of a row {"prompt": ...} or {"text": ...}, which may have an "id" and a "group"; the rest is `meta`.

    A bare string is the row {"text": string}.

    Raises DataError: neither field, or a blank one.
    """
    if isinstance(row.data, str):
        row = Row(row.line, {"text": row.data})
    field = next((name for name in FIELDS if has_field(row, name)), FIELDS[0])
    prompt = text_field(row, field, path)
    name = row.data.get("id")
    name = f"text-{text_id(prompt)}" if name is None else str(name)
    rest = {key: value for key, value in row.data.items() if key not in (field, "id", "group")}
    return Item(id=name, prompt=prompt, answer=None, group=str(row.data.get("group", name)), meta=rest)


def openings(task: Task, n_words: int, *, whole_sentences: bool = False) -> Task:
    """The task with every prompt cut after its first `n_words` words; what followed is in `meta["continuation"]`.

    `whole_sentences`: at the end of the sentence that the last of them is in. Prompts that are not longer are left out:
    there would be nothing to continue.
    """
    if n_words < 1:
        raise ConfigError(f"n_words is {n_words}", "give at least 1")
    items = []
    for item in task.items:
        words = list(_WORD.finditer(item.prompt))
        if len(words) > n_words:
            last = words[n_words - 1]
            ends = _END.search(item.prompt, last.start()) if whole_sentences else last
            if ends is None:
                continue
            end = ends.end()
            meta = {**item.meta, "continuation": item.prompt[end:]}
            items.append(replace(item, prompt=item.prompt[:end], meta=meta))
    return replace(task, items=tuple(items))
