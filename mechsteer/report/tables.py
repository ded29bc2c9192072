"""Tables: numbers by significant digits, "undefined" where there is none, the same cells in HTML and Markdown."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from mechsteer.errors import DataError
from mechsteer.report.blocks import Page
from mechsteer.report.escaping import escape_markdown
from mechsteer.report.templates import render

UNDEFINED = "undefined"


def number(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """A number with `digits` significant digits; integers whole, nan as "undefined", a real minus sign.

    Digits before the point are kept below 10^6; from there on, and under 10^-4, in powers of ten.

    >>> [number(x) for x in (0.5, -1234.56, 1.234e-7, 7, float("nan"), float("-inf"))]
    ['0.500', '−1235', '1.23e-7', '7', 'undefined', '−∞']
    """
    return UNDEFINED if math.isnan(value) else _sign(value, signed) + _magnitude(abs(value), digits)


def _sign(value: float, signed: bool) -> str:
    return "−" if value < 0 else "+" if signed and value > 0 else ""


def _magnitude(value: float, digits: int) -> str:
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if math.isinf(value):
        return "∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    return f"{value:.{max(0, digits - 1 - power)}f}" if -4 <= power < 6 else f"{mantissa}e{power}"


def decimal(value: float | None, places: int = 3) -> str:
    """A number with so many decimals; None and nan as "undefined", no sign before a rounded zero.

    >>> [decimal(x) for x in (0.6504, -0.657, -0.0001, None)]
    ['0.650', '−0.657', '0.000', 'undefined']
    """
    if value is None or math.isnan(value):
        return UNDEFINED
    text = f"{abs(value):.{places}f}"
    return (_sign(value, signed=False) if float(text) else "") + text


def aligned(values: Sequence[float], digits: int = 3, *, signed: bool = False) -> list[str]:
    """The numbers with equally many decimals: those that give the largest of them `digits` significant digits.

    >>> aligned([3.2, 0.412, float("nan"), 6.031], signed=True)
    ['+3.20', '+0.41', 'undefined', '+6.03']
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if not 1e-4 <= largest < 1e6:
        return [number(value, digits, signed=signed) for value in values]
    decimals = max(0, digits - 1 - int(f"{largest:.{digits - 1}e}".split("e")[1]))

    def text(value: float) -> str:
        if not math.isfinite(value):
            return number(value, digits, signed=signed)
        plain = f"{abs(value):.{decimals}f}"
        return (_sign(value, signed) if float(plain) else "") + plain  # no sign before a rounded zero

    return [text(value) for value in values]


def cell(value: object, digits: int = 3) -> str:
    """What a table shows for `value`: text as it is, numbers by `number`, missing values as undefined."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if value is None or value is pd.NA or value is pd.NaT:
        return UNDEFINED
    return number(value, digits) if _is_number(value) else str(value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class Table:
    """A table with a caption that says what it is.

    `data` is a frame (an index with a name, or one that is not 0, 1, 2, ..., becomes columns), a sequence of
    mappings, or a sequence of rows with `columns`. `digits` is for all columns or, as a mapping, by column.
    `highlight` names the rows (by position) that the reader should look at first.
    """

    data: pd.DataFrame | Sequence[Mapping[str, Any]] | Sequence[Sequence[Any]]
    caption: str
    columns: Sequence[str] | None = None
    digits: int | Mapping[str, int] = 3
    highlight: int | Sequence[int] = ()

    def frame(self) -> pd.DataFrame:
        """The data as a frame, index included where it says something. Raises DataError for uneven rows."""
        columns = None if self.columns is None else pd.Index(list(self.columns))
        if not isinstance(self.data, pd.DataFrame):
            try:
                return pd.DataFrame(list(self.data), columns=columns, dtype=object)
            except ValueError as error:
                message = f"table rows and columns do not fit: {error}"
                raise DataError(message, "give one name per column") from error
        frame = self.data
        if not (isinstance(frame.index, pd.RangeIndex) and frame.index.name is None):
            frame = frame.reset_index()
        return frame if columns is None else frame.loc[:, columns]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Column names and the text of every cell, row by row, before any escaping."""
        frame = self.frame()
        names = [str(name) for name in frame.columns]
        digits = [self.digits if isinstance(self.digits, int) else self.digits.get(name, 3) for name in names]
        rows = frame.itertuples(index=False, name=None)
        return names, [[cell(value, d) for value, d in zip(row, digits, strict=True)] for row in rows]

    def _marked(self) -> set[int]:
        return {self.highlight} if isinstance(self.highlight, int) else set(self.highlight)

    def html(self, _page: Page, /) -> str:
        """A table that scrolls sideways when the page is narrow; number columns are set right."""
        names, rows = self.cells()
        frame = self.frame()
        columns = [list(frame.iloc[:, i]) for i in range(frame.shape[1])]
        return render(
            "table.html",
            caption=self.caption,
            names=names,
            rows=rows,
            numeric=[all(_is_number(v) or cell(v) == UNDEFINED for v in column) for column in columns],
            marked=self._marked(),
        )

    def markdown(self) -> str:
        """The same cells as a Markdown table; highlighted rows are bold."""
        names, rows = self.cells()
        lines = [[escape_markdown(name) for name in names], ["---"] * len(names)]
        for i, row in enumerate(rows):
            mark = "**" if i in self._marked() else ""
            lines.append([f"{mark}{escape_markdown(text)}{mark}" if text.strip() else "" for text in row])
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"{table}\n\n*{escape_markdown(self.caption)}*"
