"""Bars that follow the reader: some values of every token, those of one token at a time.

Without a script the bars show the mean over the tokens. The script (`templates/token_bars.js`) writes texts and widths
and makes no markup; what it is given are numbers, tokens and names stand in the page, escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike

from mechsteer.errors import DataError, ShapeError
from mechsteer.report.blocks import Page
from mechsteer.report.escaping import escape_markdown
from mechsteer.report.heatmaps import token_html
from mechsteer.report.tables import Table, decimal, number
from mechsteer.report.templates import render, source
from mechsteer.results import Shown


@dataclass(frozen=True)
class TokenBars(Shown):
    """A bar for each of `names` [n_names], of `values` [n_tokens n_names] at the token that is pointed at.

    Tokens that hold NaN have no values and cannot be chosen. Raises ShapeError where tokens, names and values differ in
    number, DataError for infinite values.
    """

    tokens: Sequence[str]
    values: ArrayLike
    names: Sequence[str]
    caption: str
    label: str = "value"

    def __post_init__(self) -> None:
        shape = (len(self.tokens), len(self.names))
        if self._array().shape != shape:
            raise ShapeError(
                f"bars of {shape[0]} tokens and {shape[1]} names got values of shape {self._array().shape}",
                "give a row of values per token",
            )
        if np.isinf(self._array()).any():
            raise DataError("bars got infinite values", "clip them, or set them to nan")

    def _array(self) -> np.ndarray:
        return np.asarray(self.values, dtype=np.float64)

    def _known(self) -> np.ndarray:
        """[n_tokens] that have values."""
        return np.asarray(np.isfinite(self._array()).all(axis=1))

    def _means(self) -> np.ndarray:
        known = self._array()[self._known()]
        return known.mean(0) if len(known) else np.full(len(self.names), math.nan)

    def _full(self) -> float:
        """What fills a bar: the largest magnitude."""
        return float(np.abs(self._array()[self._known()]).max(initial=0.0)) or 1.0

    def html(self, page: Page, /) -> str:
        """A figure of tokens and bars, which show the mean until a token is chosen."""
        name, known, full = page.new_id("token-bars"), self._known(), self._full()
        rows = [
            [float(f"{value:.6g}") for value in row] if is_known else None
            for row, is_known in zip(self._array(), known, strict=True)
        ]
        call = f'mechsteerTokenBars("{name}", {json.dumps(rows, allow_nan=False)}, {full!r});'
        page.own.setdefault(str(source("token_bars.js")), []).append(call)
        bars = [
            (
                of,
                0.0 if math.isnan(mean) else round(100 * abs(mean) / full, 2),
                "negative" if mean < 0 else "",
                decimal(mean),
            )
            for of, mean in zip(self.names, self._means().tolist(), strict=True)
        ]
        return render(
            "token_bars.html",
            id=name,
            tokens=[(Markup(token_html(t)), bool(k)) for t, k in zip(self.tokens, known, strict=True)],
            mean=f"Mean over {int(known.sum())} tokens",
            bars=bars,
            caption=self.caption,
            label=self.label,
            full=number(full),
            missing=int((~known).sum()),
        )

    def markdown(self) -> str:
        """The mean of every name, and the tokens with the largest of their values."""
        values, rows = self._array(), []
        for k, (name, mean) in enumerate(zip(self.names, self._means(), strict=True)):
            order = [i for i in np.argsort(-np.abs(values[:, k]), kind="stable") if self._known()[i]][:5]
            strongest = ", ".join(f"{self.tokens[i]!r} {decimal(float(values[i, k]))}" for i in order)
            rows.append((name, float(mean), strongest or "none"))
        columns = ["of", "mean", "strongest at"]
        table = Table(rows, f"{self.label} by token", columns=columns).markdown()
        return f"*{escape_markdown(self.caption)}*\n\n{table}"
