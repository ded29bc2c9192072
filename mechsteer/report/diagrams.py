"""Persistence diagrams, drawn by persim: each bar a point (birth, death); the further above the diagonal, the longer."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from matplotlib.figure import Figure as Canvas
from numpy import ndarray

from mechsteer.report.figures import STYLE, Figure, styled
from mechsteer.report.tables import number
from mechsteer.topology.persistence import draw_diagrams
from mechsteer.topology.summaries import TopologySummary

NAMES = {"h0": "H0, components", "h1": "H1, loops"}


def bars_of(summary: TopologySummary) -> dict[str, Float[ndarray, "n_bars 2"]]:
    """The bars of a trajectory by what they are: (birth, death) of each dimension that was asked for."""
    found = {NAMES[name]: getattr(summary, name) for name in NAMES}
    return {name: bars.bars for name, bars in found.items() if bars is not None}


def persistence_diagram(
    shown: TopologySummary | Mapping[str, TopologySummary],
    *,
    title: str = "Persistence diagram",
    caption: str = "",
) -> Figure:
    """One panel per trajectory, all on the same axes: births and deaths of its components and loops.

    `shown`: what `mechsteer.topology.summarize` gives, or several by name. A notebook shows the picture,
    `save("diagram.png")` writes it.
    """
    several = {"": shown} if isinstance(shown, TopologySummary) else dict(shown)
    panels = {name: bars_of(summary) for name, summary in several.items()}
    most = max((float(bars[:, 1].max(initial=0.0)) for each in panels.values() for bars in each.values()), default=0.0)
    span = (-0.04 * (most or 1.0), 1.08 * (most or 1.0))
    with styled():
        canvas = Canvas(figsize=(3.1 * max(1, len(panels)), 3.2))
        for i, (name, bars) in enumerate(panels.items(), start=1):
            axes = canvas.add_subplot(1, len(panels), i)
            draw_diagrams(bars, axes, span=span, style=["default", STYLE])
            axes.set_xlabel("birth (distance)")
            axes.set_ylabel("death (distance)" if i == 1 else "")
            if name:
                axes.set_title(name, fontsize=9)
    told = "; ".join(f"{name}: {_said(bars)}" if name else _said(bars) for name, bars in panels.items())
    default = (
        "Each point is a bar: where it is born and where it dies, in units of distance between points. Length is the "
        "height above the diagonal; components are all born at 0."
    )
    return Figure(canvas, title, caption or default, f"Persistence diagram. {told}.")


def _said(bars: Mapping[str, Float[ndarray, "n_bars 2"]]) -> str:
    return ", ".join(
        f"{name}: {len(each)} bars, the longest {number(float((each[:, 1] - each[:, 0]).max(initial=0.0)))}"
        for name, each in bars.items()
    )
