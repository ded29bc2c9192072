"""HellaSwag (Zellers et al. 2019, arXiv 1905.07830): which of four endings goes on with a scene.

A row is {"activity_label", "ctx_a", "ctx_b", "endings", "label"}, in its own files and in the Hugging Face dataset. The
prompt is "Activity: context", cleaned of WikiHow's marks as the public harnesses clean it; score it with
`MultipleChoice(normalise="characters")`, whose result they call acc_norm. Items of one source (`source_id`: a video or
an article) are one group.
"""

from __future__ import annotations

import re
from pathlib import Path

from mechsteer.prompts import Row, field_of, malformed
from mechsteer.tasks.base import Item, has_field, text_field
from mechsteer.tasks.choices import choice_item

NAME = "hellaswag"
_MARK = re.compile(r"\[.*?\]")


def is_row(row: Row) -> bool:
    """Whether a file that begins with `row` is HellaSwag's."""
    return has_field(row, "endings") and has_field(row, "ctx", "ctx_a")


def item_of(row: Row, path: Path) -> Item:
    """The item of a row. Raises DataError: a missing field, or no label, as in the test rows of HellaSwag."""
    if has_field(row, "ctx_a"):
        second = str(row.data.get("ctx_b") or "")
        context = f"{text_field(row, 'ctx_a', path)} {second.capitalize()}"
    else:
        context = text_field(row, "ctx", path)
    endings, activity, label = field_of(row, "endings", path), row.data.get("activity_label"), row.data.get("label")
    if label in (None, ""):
        raise malformed(path, row.line, "there is no label: HellaSwag's test rows have none, take the validation rows")
    if isinstance(label, str) and label.isdecimal():
        label = int(label)
    return choice_item(
        row,
        path,
        kind=NAME,
        prompt=cleaned(f"{activity}: {context}" if activity else context),
        options=[cleaned(e) if isinstance(e, str) else e for e in endings] if isinstance(endings, list) else endings,
        gold=label,
        group=None if not row.data.get("source_id") else str(row.data["source_id"]),
        meta={} if not activity else {"activity": activity},
    )


def cleaned(text: str) -> str:
    """Without the marks of WikiHow's articles.

    >>> cleaned("Roof shingle removal: A man [title] Get up.  [step] Sit.")
    'Roof shingle removal: A man. Get up. Sit.'
    """
    text = _MARK.sub("", text.strip().replace(" [title]", ". "))
    return re.sub(r" {2,}", " ", text).strip()
