"""A table of numbers as a picture: a coloured cell each, its value and interval written in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from mechsteer.errors import ShapeError
from mechsteer.report.escaping import visible
from mechsteer.report.figures import INK, Figure, styled
from mechsteer.report.tables import aligned, number

# the colours of the token heatmaps, white at zero
COLOURS = LinearSegmentedColormap.from_list("mechsteer", ["#E69F00", "#FFFFFF", "#56B4E9"])


def grid(
    values: ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    title: str,
    caption: str,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    marked: tuple[int, int] | None = None,
    unit: str = "",
) -> Figure:
    """Values [n_rows n_columns], blue above zero and orange below, on one symmetric scale; intervals below them.

    `low`, `high` [n_rows n_columns] are written under each value, `marked` is framed. Raises ShapeError where names
    and values differ in number.
    """
    shown = np.asarray(values, dtype=np.float64)
    bounds = [np.asarray(edge, dtype=np.float64) for edge in (low, high) if edge is not None]
    if any(each.shape != (len(rows), len(columns)) for each in (shown, *bounds)):
        raise ShapeError(
            f"values of shape {shown.shape} for {len(rows)} rows and {len(columns)} columns",
            "give one value and one interval per cell",
        )
    most = float(np.nanmax(np.abs(shown), initial=0.0)) or 1.0
    texts = np.array(aligned(shown.ravel().tolist())).reshape(shown.shape)
    ends = [np.array(aligned(edge.ravel().tolist())).reshape(shown.shape) for edge in bounds]
    with styled():
        canvas = Canvas(figsize=(1.4 + 1.15 * len(columns), 0.9 + 0.48 * len(rows)))
        axes = canvas.add_subplot()
        axes.imshow(shown, cmap=COLOURS, vmin=-most, vmax=most, aspect="auto")
        axes.set_xticks(range(len(columns)), [visible(name) for name in columns])
        axes.set_yticks(range(len(rows)), [visible(name) for name in rows])
        axes.set_xlabel(x_label)
        for (i, j), text in np.ndenumerate(texts):
            axes.text(j, i - (0.12 if ends else 0), text, ha="center", va="center", color=INK)
            if len(ends) == 2:
                within = f"[{ends[0][i, j]}, {ends[1][i, j]}]"
                axes.text(j, i + 0.25, within, ha="center", va="center", color=INK, fontsize=7)
        if marked is not None:
            frame = Rectangle((marked[1] - 0.5, marked[0] - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=2)
            axes.add_patch(frame)
    told = "; ".join(
        f"{rows[i]}: " + ", ".join(f"{columns[j]} {texts[i, j]}" for j in range(len(columns))) for i in range(len(rows))
    )
    scale = f"white is 0, full colour ±{number(most)}{f' {unit}' if unit else ''}"
    return Figure(canvas, title, f"{caption} Colour: {scale}.", f"Grid of {len(rows)} by {len(columns)} cells. {told}.")
