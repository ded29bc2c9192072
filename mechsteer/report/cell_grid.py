"""A grid of cells with a text and a colour each: layers × tokens, or concepts × concepts. Plain HTML, it scrolls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mechsteer.errors import DataError, ShapeError
from mechsteer.report.escaping import escape_markdown
from mechsteer.report.heatmaps import NEGATIVE, POSITIVE
from mechsteer.report.tables import decimal, number
from mechsteer.report.templates import render
from mechsteer.results import Shown

LONGEST = 14  # characters of a text in a cell, so that columns stay narrow


@dataclass(frozen=True)
class CellGrid(Shown):
    """Values [n_rows n_columns] as colours: blue above zero, orange below, white at zero; nan is left white.

    `texts` stand in the cells (default: the value with two decimals); `scale` is the value of full colour (default:
    the largest magnitude). Raises ShapeError where names, texts and values differ in number, DataError for infinity.
    """

    values: ArrayLike
    rows: Sequence[str]
    columns: Sequence[str]
    caption: str
    texts: Sequence[Sequence[str]] | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.columns))
        given = shape if self.texts is None else (len(self.texts), *{len(row) for row in self.texts})
        if self._array().shape != shape or given != shape:
            raise ShapeError(
                f"values {self._array().shape} and texts {given} for {shape[0]} rows and {shape[1]} columns",
                "give one of each per cell",
            )
        if np.isinf(self._array()).any():
            raise DataError("a grid got infinite values", "set them to nan to leave them white")

    def _array(self) -> np.ndarray:
        return np.asarray(self.values, dtype=np.float64)

    def _limit(self) -> float:
        known = np.abs(self._array()[~np.isnan(self._array())])
        return self.scale or float(known.max(initial=0.0)) or 1.0

    def _cells(self) -> list[list[str]]:
        if self.texts is not None:
            return [[text if len(text) <= LONGEST else f"{text[:LONGEST]}…" for text in row] for row in self.texts]
        return [["" if math.isnan(v) else decimal(v, 2) for v in row] for row in self._array().tolist()]

    def html(self, _page: object, /) -> str:
        """A table whose first column stays in sight."""
        limit, values = self._limit(), self._array().tolist()
        body = [
            (name, [(text, _colour(v, limit)) for text, v in zip(cells, row, strict=True)])
            for name, cells, row in zip(self.rows, self._cells(), values, strict=True)
        ]
        return render("cell_grid.html", caption=self._caption(), columns=self.columns, body=body)

    def _caption(self) -> str:
        signed = "±" if (self._array() < 0).any() else ""
        return f"{self.caption} Colour: white is 0, full colour {signed}{number(self._limit())}."

    def markdown(self) -> str:
        """The caption and a table of the texts."""
        lines = ["| |" + "".join(f" {escape_markdown(name)} |" for name in self.columns)]
        lines.append("|---|" + "---|" * len(self.columns))
        for name, cells in zip(self.rows, self._cells(), strict=True):
            lines.append(f"| {escape_markdown(name)} |" + "".join(f" {escape_markdown(text)} |" for text in cells))
        return "\n".join([f"*{escape_markdown(self._caption())}*", "", *lines])


def _colour(value: float, limit: float) -> str:
    """A CSS colour; black text reads well on all of them."""
    if math.isnan(value):
        return "#FFFFFF"
    full = POSITIVE if value >= 0 else NEGATIVE
    share = min(1.0, abs(value) / limit)
    parts = (int(full[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + share * (part - 255)):02X}" for part in parts)
