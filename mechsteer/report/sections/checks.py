"""The figures of a check as tables that fit a page: a value and its interval in one cell, headings in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from mechsteer.report.sections.words import interval, p_value
from mechsteer.report.tables import Table
from mechsteer.results import Interval

KEPT = {
    "k": "k",
    "sufficiency": "kept alone",
    "null_sufficiency": "meaningless, kept",
    "beyond_null": "own − meaningless",
    "random_sufficiency": "random directions, kept",
    "p": "p",
    "p_holm": "p (Holm)",
}
REMOVED = {
    "k": "k",
    "necessity": "removed",
    "null_necessity": "meaningless, removed",
    "necessity_beyond_null": "own − meaningless",
    "off": "distance from the whole",
}
CHOSEN = {
    "k": "k",
    "energy": "share of energy",
    "recorded": "kept, by gradients",
    "recorded_null": "meaningless, by gradients",
    "chosen_again": "chosen again",
}


def check_tables(check: pd.DataFrame, caption: str) -> list[Table]:
    """The check of an attributed effect: what is kept, what is removed, and how they were chosen."""
    told = f"{caption} with 95 % intervals of these directions, on new contexts"
    return [
        Table(in_words(check, KEPT), caption=f"{told}: the top k kept alone (sufficiency)"),
        Table(in_words(check, REMOVED), caption=f"{told}: the top k removed (necessity)"),
        Table(
            in_words(check, CHOSEN),
            caption=f"{caption}: how the top k were chosen, and the share of them chosen again on other contexts",
        ),
    ]


def in_words(frame: pd.DataFrame, names: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The frame with `x`, `x_low`, `x_high` as one column x, p-values written as such, and headings of words.

    `names`: the columns that are kept, in this order, with their headings; default: all, by their own names.
    """
    columns = list(names) if names else [c for c in frame.columns if not _is_bound(c, frame.columns)]
    shown = {}
    for column in columns:
        if column not in frame.columns:
            continue
        heading = names[column] if names else str(column).replace("_", " ")
        shown[heading] = _cells(frame, column)
    return pd.DataFrame(shown)


def _is_bound(column: str, columns: Sequence[str] | pd.Index) -> bool:
    stem, _, end = str(column).rpartition("_")
    return end in ("low", "high") and stem in columns


def _cells(frame: pd.DataFrame, column: str) -> list[object]:
    values = frame[column].tolist()
    if column == "p" or column.startswith("p_"):
        return [p_value(value) for value in values]
    if column in ("k", "layer"):
        return [int(value) if isinstance(value, float) else value for value in values]
    if f"{column}_low" not in frame.columns:
        return values
    bounds = zip(values, frame[f"{column}_low"], frame[f"{column}_high"], strict=True)
    return [interval(Interval(value=float(v), low=float(low), high=float(high))) for v, low, high in bounds]
