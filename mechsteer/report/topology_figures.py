"""Pictures of topology: barcodes, and trajectories on paper with their spanning tree and loops."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from mechsteer.report.diagrams import bars_of
from mechsteer.report.escaping import visible
from mechsteer.report.figures import BLUE, GREEN, GREY, INK, ORANGE, Figure, styled
from mechsteer.report.tables import number
from mechsteer.topology import TopologySummary, TrajectoryMap

LOOP_COLOURS = (ORANGE, GREEN)


def barcode(
    shown: TopologySummary | Mapping[str, TopologySummary], *, title: str = "Barcode", caption: str = ""
) -> Figure:
    """One panel per trajectory: a line per bar from birth to death, components below, loops above, short ones first."""
    several = {"": shown} if isinstance(shown, TopologySummary) else dict(shown)
    panels = {name: bars_of(summary) for name, summary in several.items()}
    most = max((float(bars[:, 1].max(initial=0.0)) for each in panels.values() for bars in each.values()), default=0.0)
    told = []
    with styled():
        canvas = Canvas(figsize=(3.1 * max(1, len(panels)), 2.8))
        for i, (name, bars) in enumerate(panels.items(), start=1):
            axes = canvas.add_subplot(1, len(panels), i)
            at = 0
            for (kind, each), color in zip(bars.items(), (BLUE, ORANGE), strict=False):
                axes.hlines(np.arange(at, at + len(each)), each[:, 0], each[:, 1], color=color, label=kind)
                at += len(each)
            axes.set_xlim(0, 1.05 * (most or 1.0))
            axes.set_yticks([])
            axes.set_xlabel("distance between points")
            if name:
                axes.set_title(visible(name), fontsize=9)
            if i == 1 and at:
                axes.legend(loc="lower right", fontsize=7.5)
            told.append(
                f"{name + ': ' if name else ''}{', '.join(f'{len(each)} bars of {k}' for k, each in bars.items())}"
            )
    default = (
        "Each line is a component (H0) or a loop (H1), from the distance at which it appears to that at which it ends."
    )
    return Figure(canvas, title, caption or default, f"Barcode up to {number(most)}. {'; '.join(told)}.")


def trajectory_map(
    shown: TrajectoryMap | Sequence[TrajectoryMap], *, title: str = "Trajectory", caption: str = ""
) -> Figure:
    """Points in order (dark to light) with the spanning tree and cycles of the longest loops; a panel per trajectory."""
    several = [shown] if isinstance(shown, TrajectoryMap) else list(shown)
    every = np.concatenate([each.points for each in several])
    low, high = every.min(0), every.max(0)
    margin = 0.06 * np.maximum(high - low, 1e-9)
    with styled():
        canvas = Canvas(figsize=(3.3 * len(several), 3.2))
        for i, each in enumerate(several, start=1):
            axes = canvas.add_subplot(1, len(several), i)
            _draw_map(axes, each)
            axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
            axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
            axes.set_xlabel("first component")
            axes.set_ylabel("second component" if i == 1 else "")
            if each.name:
                axes.set_title(visible(each.name), fontsize=9)
    told = "; ".join(
        f"{each.name + ': ' if each.name else ''}{len(each.points)} points, spanning tree of length "
        f"{number(float(each.tree_lengths.sum()))}, loops {', '.join(number(loop.lifetime) for loop in each.loops) or 'none'}"
        for each in several
    )
    default = (
        f"Each point a token, dark at the start; two principal components ({100 * several[0].explained:.0f} % of the "
        "variance). Grey: the minimum spanning tree of the full space; coloured: a cycle of each of the longest-lived loops."
    )
    return Figure(canvas, title, caption or default, f"Trajectory in two dimensions. {told}.")


def _draw_map(axes: Axes, shown: TrajectoryMap) -> None:
    x, y = shown.points.T
    for i, j in shown.tree.tolist():
        axes.plot(x[[i, j]], y[[i, j]], "-", color=GREY, linewidth=0.8)
    for loop, color in zip(shown.loops, itertools.cycle(LOOP_COLOURS)):
        for i, j in loop.edges.tolist():
            axes.plot(x[[i, j]], y[[i, j]], "-", color=color, linewidth=1.6)
    order = np.arange(len(x)) / max(1, len(x) - 1)
    axes.scatter(x, y, c=order, cmap="Blues_r", vmin=0, vmax=1.3, s=16, edgecolors=INK, linewidths=0.4, zorder=3)
