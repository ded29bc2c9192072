"""Figures over tokens, and of pairs: how far a gate opens along texts; what a summary was before and is after."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from mechsteer.errors import DataError
from mechsteer.report.escaping import visible
from mechsteer.report.figures import BLUE, GREY, INK, ORANGE, WIDTH, Figure, styled
from mechsteer.report.tables import number


def token_trace(
    texts: Mapping[str, ArrayLike],
    *,
    title: str,
    caption: str,
    y_label: str,
    begins: Mapping[str, int] | None = None,
    level: float | None = None,
    level_name: str = "",
) -> Figure:
    """One panel per text: its value [pos] at each token; NaN leaves a gap.

    `begins[name]`: the first token that the model wrote, a dotted line. `level`: a dashed line across, called
    `level_name`. Panels share their axes. Raises DataError without texts.
    """
    if not texts:
        raise DataError("there are no texts to draw", "give at least one")
    rows = {name: np.asarray(values, dtype=float) for name, values in texts.items()}
    with styled():
        canvas = Canvas(figsize=(WIDTH, 0.6 + 0.95 * len(rows)))
        first: Axes | None = None
        for i, (name, values) in enumerate(rows.items(), start=1):
            axes = canvas.add_subplot(len(rows), 1, i, sharex=first, sharey=first)
            first = first or axes
            axes.plot(np.arange(len(values)), values, color=BLUE, linewidth=1.1)
            if begins is not None and name in begins:
                axes.axvline(begins[name], color=GREY, linestyle=":", linewidth=1)
            if level is not None:
                axes.axhline(level, color=ORANGE, linestyle=(0, (3, 3)), linewidth=1)
            axes.set_title(visible(name), fontsize=8.5, loc="left", pad=2)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel("token" if i == len(rows) else " ")
            axes.set_ylabel(visible(y_label), fontsize=8)
    told = "; ".join(f"{name}: {_span(values)}" for name, values in rows.items())
    line = "" if level is None else f" Dashed: {level_name or 'level'} {number(level)}."
    return Figure(canvas, title, f"{caption}{line}", f"{y_label} token by token. {told}.")


def before_after(before: ArrayLike, after: ArrayLike, *, title: str, caption: str, label: str) -> Figure:
    """A point per pair [n_pairs]: before to the right, after upwards; on the diagonal nothing has changed."""
    x, y = (np.asarray(side, dtype=float) for side in (before, after))
    with styled():
        canvas = Canvas(figsize=(3.4, 3.2))
        axes = canvas.add_subplot()
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        pad = 0.05 * (high - low or 1.0)
        axes.plot([low - pad, high + pad], [low - pad, high + pad], color=INK, linestyle=(0, (3, 3)), linewidth=1)
        axes.scatter(x, y, s=13, facecolors="none", edgecolors=BLUE, linewidths=0.9)
        axes.set_xlabel(visible(f"{label}, as it is"))
        axes.set_ylabel(visible(f"{label}, steered"))
    higher = int((y > x).sum())
    told = f"{len(x)} pairs of {label}: mean {number(float(x.mean()))} as it is, {number(float(y.mean()))} steered"
    return Figure(canvas, title, caption, f"{told}; higher in {higher} pairs, lower in {int((y < x).sum())}.")


def _span(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    if not len(known):
        return "undefined"
    return f"mean {number(float(known.mean()))}, from {number(float(known.min()))} to {number(float(known.max()))}"
