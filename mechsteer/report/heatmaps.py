"""Token heatmaps: circuitsvis' ColoredTokens, made to work offline and to be safe with any text.

The only file that knows circuitsvis. Its own output loads JavaScript from a CDN, so the bundle that lies in
the package (`dist/cdn/iife.js`) is put into the page, once, and each heatmap is one call of
`CircuitsVis.render`. ColoredTokens sets the text of a token as HTML: tokens are escaped before they reach it.
The package itself is never imported (it brings torch): only its files are read.
"""

from __future__ import annotations

import functools
import html
import importlib.util
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from mechsteer.errors import DataError, FileFormatError, ShapeError
from mechsteer.report.blocks import Page
from mechsteer.report.escaping import escape_markdown, visible
from mechsteer.report.tables import number
from mechsteer.report.templates import render
from mechsteer.results import Shown

# Okabe and Ito's sky blue and orange: told apart by colour-blind readers, and light enough for black text.
POSITIVE, NEGATIVE = "#56B4E9", "#E69F00"


@functools.cache
def bundle() -> str:
    """circuitsvis' JavaScript, fit to stand inside a `<script>`. Raises FileFormatError when it is missing."""
    spec = importlib.util.find_spec("circuitsvis")
    folders = (spec.submodule_search_locations or []) if spec else []
    paths = [path for folder in folders if (path := Path(folder) / "dist" / "cdn" / "iife.js").is_file()]
    if not paths:
        hint = "pip install --force-reinstall circuitsvis"
        raise FileFormatError("circuitsvis' JavaScript bundle (dist/cdn/iife.js) was not found", hint)
    source = re.sub(r"\n?//# sourceMappingURL=\S*\s*$", "", paths[0].read_text(encoding="utf-8"))
    # In JavaScript strings and patterns a needless backslash changes nothing; for the HTML parser it does.
    source = re.sub(r"</(?=script)", r"<\\/", source, flags=re.IGNORECASE)
    return source.replace("<!--", r"<\!--").replace("\r", "")


def token_html(token: str) -> str:
    r"""A token as ColoredTokens must get it: escaped, the invisible made visible; newlines break the line too.

    >>> token_html("<b>\n")
    '&lt;b&gt;↵\n'
    """
    shown = "↵\n".join(visible(part) for part in token.split("\n"))
    return html.escape(shown, quote=True) if shown else "⟨empty⟩"


@dataclass(frozen=True)
class Heatmap(Shown):
    """Tokens coloured by a value each: blue above zero, orange below, white at zero; symmetric scale.

    `values` [n_tokens]; nan is left white and counted. `scale` is the value of full colour (default: the
    largest magnitude); give the same to heatmaps that will be compared. Raises ShapeError when tokens and
    values differ in number, DataError for infinite values.
    """

    tokens: Sequence[str]
    values: ArrayLike
    caption: str
    label: str = "value"
    scale: float | None = None

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        if values.shape != (len(self.tokens),):
            message = f"a heatmap of {len(self.tokens)} tokens got values of shape {values.shape}"
            raise ShapeError(message, "give one value per token")
        if np.isinf(values).any():
            raise DataError("a heatmap got infinite values", "clip them, or set them to nan to leave them white")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise DataError(f"the scale of a heatmap is {self.scale}", "give a positive number, or None")

    def _array(self) -> np.ndarray:
        return np.asarray(self.values, dtype=np.float64)

    def _limit(self) -> float:
        known = np.abs(self._array()[~np.isnan(self._array())])
        return self.scale or float(known.max(initial=0.0)) or 1.0

    def props(self) -> dict[str, object]:
        """The properties of `CircuitsVis.ColoredTokens`; values with six significant digits, nan as None."""
        limit = self._limit()
        return {
            "tokens": [token_html(token) for token in self.tokens],
            "values": [None if math.isnan(value) else float(f"{value:.6g}") for value in self._array()],
            "minValue": -limit,
            "maxValue": limit,
            "negativeColor": NEGATIVE,
            "positiveColor": POSITIVE,
            "paddingBottom": 0,
        }

    def html(self, page: Page, /) -> str:
        """A figure that shows the plain text until (and unless) the script colours it."""
        name = page.new_id("heatmap")
        # ASCII JSON; `</` cannot end the script element.
        props = json.dumps(self.props(), allow_nan=False).replace("</", "<\\/")
        page.calls.append(f'CircuitsVis.render("{name}", CircuitsVis.ColoredTokens, {props});')
        values, limit = self._array(), number(self._limit())
        signed = bool((values < 0).any())
        return render(
            "heatmap.html",
            id=name,
            text="".join(self.tokens),
            caption=self.caption,
            label=self.label,
            bar="signed" if signed else "positive",
            low=f"−{limit}" if signed else "0",
            high=f"+{limit}" if signed else limit,
            missing=int(np.isnan(values).sum()),
        )

    def markdown(self) -> str:
        """Caption, text, and the ten tokens of largest magnitude with their values."""
        values = self._array()
        order = [i for i in np.argsort(-np.abs(values), kind="stable") if not math.isnan(values[i])][:10]
        strongest = [f"{escape_markdown(repr(self.tokens[i]))} {number(float(values[i]))}" for i in order]
        text = escape_markdown("".join(self.tokens))
        caption, label = escape_markdown(self.caption), escape_markdown(self.label)
        return f"*{caption}*\n\n> {text}\n\nStrongest ({label}): {', '.join(strongest)}"
