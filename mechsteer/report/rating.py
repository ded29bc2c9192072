"""A qualitative sheet as files: side by side (sheet.html), blind with a form (rating.html), and the key (sheet.jsonl).

Both pages work offline, with no script but the form's own; texts of models are shown and are never markup. The form keeps
nothing: "Save" makes a file of what was rated, by "row letter", for `Sheet.rated`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mechsteer.errors import FileFormatError
from mechsteer.evaluation.sheets import Sheet
from mechsteer.files import write_atomically
from mechsteer.report.escaping import escape_lines
from mechsteer.report.templates import render

SCALE = (1, 2, 3, 4, 5)
QUESTION = "How well does the text answer the prompt? 1: not at all, 5: very well."


@dataclass(frozen=True, kw_only=True)
class SheetFiles:
    """Where the three files lie."""

    sheet: Path
    rating: Path
    key: Path


def write_sheet(sheet: Sheet, folder: str | Path, *, question: str = QUESTION) -> SheetFiles:
    """Write the three files; readers of rating.html are not to be shown the others. Raises StorageError."""
    folder = Path(folder)
    return SheetFiles(
        sheet=write_atomically(folder / "sheet.html", sheet_html(sheet)),
        rating=write_atomically(folder / "rating.html", rating_html(sheet, question=question)),
        key=write_atomically(folder / "sheet.jsonl", sheet_jsonl(sheet)),
    )


def sheet_html(sheet: Sheet) -> str:
    """The texts of each prompt side by side, by strength."""
    return _page(sheet, blind=False, question="")


def rating_html(sheet: Sheet, *, question: str = QUESTION) -> str:
    """The form: letters in the order of the alphabet, which says nothing of strengths."""
    return _page(sheet, blind=True, question=question)


def sheet_jsonl(sheet: Sheet) -> str:
    """A line per text: its prompt, letter, strength, and what was written."""
    lines = [
        {
            "row": text.row,
            "letter": text.letter,
            "gamma": text.gamma,
            "prompt": sheet.prompts[text.row],
            "text": text.text,
        }
        for text in sheet.texts
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def read_ratings(path: str | Path) -> dict[str, float]:
    """What a reader saved, for `Sheet.rated`. Raises FileFormatError for another file."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} holds no ratings: {error}", "give the file that rating.html saved") from error
    ratings = found.get("ratings") if isinstance(found, Mapping) else None
    if not isinstance(ratings, Mapping) or not all(type(value) in (int, float) for value in ratings.values()):
        raise FileFormatError(f"{path} holds no ratings", "give the file that rating.html saved")
    return {str(key): float(value) for key, value in ratings.items()}


def strength(gamma: float) -> str:
    """A strength as short as it was given.

    >>> strength(-4.0), strength(0.25)
    ('−4', '0.25')
    """
    return f"{gamma:g}".replace("-", "−")


def _page(sheet: Sheet, *, blind: bool, question: str) -> str:
    rows: list[dict[str, Any]] = [
        {
            "number": row + 1,
            "prompt": Markup(escape_lines(prompt)),
            "texts": [
                {
                    "name": text.letter if blind else f"γ = {strength(text.gamma)}",
                    "key": f"{row} {text.letter}",
                    "text": Markup(escape_lines(text.text.strip() or "(nothing was written)")),
                }
                for text in sheet.at(row, blind=blind)
            ],
        }
        for row, prompt in enumerate(sheet.prompts)
    ]
    title = "Rating of texts" if blind else sheet.title  # a title may tell what was done
    return render("sheet.html", title=title, blind=blind, question=question, scale=SCALE, rows=rows) + "\n"
