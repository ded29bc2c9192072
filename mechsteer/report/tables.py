"""Tables: one number format a column, "undefined" where there is none, the same cells in HTML and Markdown."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
from markupsafe import Markup

from mechsteer.errors import DataError
from mechsteer.report.blocks import Page
from mechsteer.report.escaping import escape_markdown, visible
from mechsteer.report.templates import render
from mechsteer.results import Shown

UNDEFINED = "undefined"
MOST_DECIMALS = 4
LONGEST_TOKEN = 32  # characters that a cell shows of a token: it is not broken, so that a table would grow with it


@dataclass(frozen=True)
class Tokens:
    """Tokens in a cell, each in quotation marks, with `notes` behind them; none is broken across lines."""

    tokens: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def parts(self) -> list[str]:
        """Each token as it is written, its note behind it; long ones are cut."""
        cut = [t if len(t) <= LONGEST_TOKEN else f"{t[:LONGEST_TOKEN]}…" for t in self.tokens]
        notes = self.notes or ("",) * len(cut)
        return [f"{token!r} {note}".rstrip() for token, note in zip(cut, notes, strict=True)]

    def __str__(self) -> str:
        return " ".join(self.parts())

    def html(self) -> Markup:
        """A span for each, which the style sheet does not break."""
        return Markup(" ").join(Markup('<span class="token">{}</span>').format(visible(p)) for p in self.parts())


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
    decimals = _decimals(values, digits)
    if decimals is None:
        return [number(value, digits, signed=signed) for value in values]
    return [_with_decimals(value, decimals, digits, signed=signed) for value in values]


def column(values: Sequence[object], digits: int = 3) -> list[str]:
    """The cells of one column: whole numbers whole, others with equally many decimals.

    The largest gets `digits` significant digits, the smallest at least one where 4 decimals are
    enough; what is not 0 and would be written as 0 is said to be smaller.

    >>> column([0.008, 1.0, 0.0]), column([1e-7, 0.25]), column([3, None, 12])
    (['0.008', '1.000', '0.000'], ['< 0.001', '0.250'], ['3', 'undefined', '12'])
    """
    numeric = [float(v) for v in values if _is_number(v) and math.isfinite(v)]
    whole = all(isinstance(v, numbers.Integral) for v in values if _is_number(v) and math.isfinite(v))
    decimals = None if whole else _decimals(numeric, digits)
    if decimals is None:
        return [cell(value, digits) for value in values]
    smallest = min((abs(v) for v in numeric if abs(v) >= 10.0**-MOST_DECIMALS), default=1.0)
    if 10.0**-decimals > smallest:
        decimals = max(decimals, -math.floor(math.log10(smallest)))
    return [_with_decimals(v, decimals, digits, floor=True) if _is_number(v) else cell(v) for v in values]


def _decimals(values: Sequence[float], digits: int) -> int | None:
    """Decimals that give the largest value so many digits; None where powers of ten are needed."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if not 1e-4 <= largest < 1e6:
        return None
    return max(0, digits - 1 - int(f"{largest:.{digits - 1}e}".split("e")[1]))


def _with_decimals(value: float, decimals: int, digits: int, *, signed: bool = False, floor: bool = False) -> str:
    if not math.isfinite(value):
        return number(value, digits, signed=signed)
    plain = f"{abs(value):.{decimals}f}"
    if floor and value and not float(plain):
        smallest = f"{10.0**-decimals:.{decimals}f}"
        return f"< {smallest}" if value > 0 else f"> −{smallest}"
    return (_sign(value, signed) if float(plain) else "") + plain  # no sign before a rounded zero


def cell(value: object, digits: int = 3) -> str:
    """What a table shows for `value`: text as it is, numbers by `number`, missing values as undefined."""
    if isinstance(value, (str, Tokens)):
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if value is None or value is pd.NA or value is pd.NaT:
        return UNDEFINED
    return number(value, digits) if _is_number(value) else str(value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class Table(Shown):
    """A table with a caption that says what it is.

    `data` is a frame (an index with a name, or one that is not 0, 1, 2, ..., becomes columns), a sequence of
    mappings, or a sequence of rows with `columns`. `digits` is for all columns or, as a mapping, by column.
    `highlight` names the rows (by position) that the reader should look at first, `muted` those that are greyed.
    """

    data: pd.DataFrame | Sequence[Mapping[str, Any]] | Sequence[Sequence[Any]]
    caption: str
    columns: Sequence[str] | None = None
    digits: int | Mapping[str, int] = 3
    highlight: int | Sequence[int] = ()
    muted: Sequence[int] = ()

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
        columns = [column(list(frame.iloc[:, i]), d) for i, d in enumerate(digits)]
        return names, [list(row) for row in zip(*columns, strict=True)]

    def _marked(self) -> set[int]:
        return {self.highlight} if isinstance(self.highlight, int) else set(self.highlight)

    def html(self, _page: Page, /) -> str:
        """A table that scrolls sideways when the page is narrow; number columns are set right."""
        names, rows = self.cells()
        frame = self.frame()
        columns = [list(frame.iloc[:, i]) for i in range(frame.shape[1])]
        values = list(zip(*columns, strict=True))
        return render(
            "table.html",
            caption=self.caption,
            names=names,
            rows=[
                [_markup(value, text) for value, text in zip(*row, strict=True)]
                for row in zip(values, rows, strict=True)
            ],
            numeric=[all(_is_number(v) or cell(v) == UNDEFINED for v in column) for column in columns],
            marked=self._marked(),
            muted=set(self.muted),
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


def _markup(value: object, text: str) -> str | Markup:
    """A cell for the template: tokens are never broken."""
    return value.html() if isinstance(value, Tokens) else text
