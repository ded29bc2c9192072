"""Bars of weights as an SVG drawing that is made anew at every token: escaped, and without any script.

For a page that takes HTML as it is and may not reload a frame at every token.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from mechsteer.errors import ShapeError
from mechsteer.report.tables import decimal
from mechsteer.report.templates import render

ROW = 16  # pixels
FULL = 200  # pixels of the longest bar
MOST = 18  # characters of a name


def weight_bars(
    names: Sequence[str], values: Sequence[float], *, muted: Collection[int] = (), full: float = 1.0
) -> str:
    """A bar for each of `names`, whose value is between 0 and `full`; rows by number in `muted` are grey. NaN has none.

    Raises ShapeError where names and values differ in number.
    """
    if len(names) != len(values):
        raise ShapeError(f"{len(values)} values for {len(names)} names", "give one value per name")
    bars = []
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        share = 0.0 if math.isnan(value) else min(1.0, abs(value) / full)
        short = name if len(name) <= MOST else f"{name[: MOST - 1]}…"
        bars.append((short, ROW * i, round(FULL * share, 1), decimal(value, 2), i in muted))
    said = ", ".join(f"{name} {value}" for name, _, _, value, _ in bars)
    return render("weight_bars.html", bars=bars, height=ROW * len(bars), said=f"Weights: {said}")
