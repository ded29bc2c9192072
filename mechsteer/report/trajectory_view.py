"""Trajectories that a reader can grow: a slider sets the distance at which points are joined.

The drawing is inline SVG, whole without a script: points with their tokens, the spanning tree, a cycle of each long
loop, the barcode. The script (`templates/trajectory_view.js`) hides what is not there at the chosen distance and counts
components and loops; it makes no markup, and is given numbers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mechsteer.errors import DataError
from mechsteer.report.blocks import Page
from mechsteer.report.escaping import escape_markdown
from mechsteer.report.tables import number
from mechsteer.report.templates import render, source
from mechsteer.results import Shown
from mechsteer.topology import TrajectoryMap

SIZE = 300  # of a panel's drawing
PAD = 14
STEPS = 200  # of the slider


@dataclass(frozen=True)
class Line:
    """A line of the drawing and the distances between which it is there."""

    x1: float
    y1: float
    x2: float
    y2: float
    birth: float
    death: float
    kind: str


@dataclass(frozen=True)
class Panel:
    """One trajectory as the template draws it."""

    name: str
    points: list[tuple[float, float, int, str]]
    lines: list[Line]
    bars: list[Line]
    height: float
    said: str


@dataclass(frozen=True)
class TrajectoryView(Shown):
    """Maps side by side with one slider. Raises DataError where there is none."""

    maps: Sequence[TrajectoryMap]
    caption: str

    def __post_init__(self) -> None:
        if not self.maps:
            raise DataError("there is no trajectory to show", "pass at least one map")

    def _reach(self) -> float:
        """The distance at the slider's end: everything is joined, and the loops that are drawn have ended."""
        ends = [float(each.tree_lengths.max(initial=0.0)) for each in self.maps]
        ends += [loop.death for each in self.maps for loop in each.loops]
        return 1.05 * max(ends) or 1.0

    def html(self, page: Page, /) -> str:
        """A figure of panels and a slider."""
        name, reach = page.new_id("trajectory"), self._reach()
        every = np.concatenate([each.points for each in self.maps])
        panels = [_panel(each, every.min(0), every.max(0), reach) for each in self.maps]
        page.own.setdefault(str(source("trajectory_view.js")), []).append(f'mechsteerTrajectory("{name}", {reach!r});')
        explained = f"{100 * self.maps[0].explained:.0f}"
        return render(
            "trajectory_view.html",
            id=name,
            panels=panels,
            size=SIZE,
            steps=STEPS,
            reach=number(reach),
            explained=explained,
            caption=self.caption,
        )

    def markdown(self) -> str:
        """What each panel shows, in words."""
        lines = [f"- {escape_markdown(each.name or 'trajectory')}: {_said(each)}" for each in self.maps]
        return "\n".join([f"*{escape_markdown(self.caption)}*", "", *lines])


def _said(shown: TrajectoryMap) -> str:
    loops = ", ".join(f"{number(loop.birth)} to {number(loop.death)}" for loop in shown.loops)
    longest = number(float(shown.tree_lengths.max(initial=0.0)))
    return (
        f"{len(shown.points)} points, all joined at {longest}; loops from {loops}"
        if loops
        else (f"{len(shown.points)} points, all joined at {longest}; no loop")
    )


def _panel(shown: TrajectoryMap, low: np.ndarray, high: np.ndarray, reach: float) -> Panel:
    span = float(max((high - low).max(), 1e-12))
    room = SIZE - 2 * PAD
    at = PAD + room * ((shown.points - (low + high) / 2) / span + 0.5)
    at[:, 1] = SIZE - at[:, 1]
    at = at.round(2)

    def line(i: int, j: int, birth: float, death: float, kind: str) -> Line:
        (x1, y1), (x2, y2) = at[i].tolist(), at[j].tolist()
        return Line(x1, y1, x2, y2, _short(birth), _short(death), kind)

    far = 2 * reach
    lines = [
        line(i, j, length, far, "tree")
        for (i, j), length in zip(shown.tree.tolist(), shown.tree_lengths.tolist(), strict=True)
    ]
    lines += [
        line(i, j, loop.birth, loop.death, f"loop{k % 2}")
        for k, loop in enumerate(shown.loops)
        for i, j in loop.edges.tolist()
    ]
    spans = [(0.0, length, "tree") for length in shown.tree_lengths.tolist()]
    spans += [(loop.birth, loop.death, f"loop{k % 2}") for k, loop in enumerate(shown.loops)]
    step = 60 / max(1, len(spans))
    bars = [
        Line(round(SIZE * a / reach, 2), round(step * (n + 0.5), 2), round(SIZE * b / reach, 2), 0.0, a, b, kind)
        for n, (a, b, kind) in enumerate(spans)
    ]
    shade = np.linspace(25, 82, len(at)).round().astype(int)
    tokens = shown.tokens or tuple(f"point {i + 1}" for i in range(len(at)))
    points = [
        (float(x), float(y), int(s), f"{n}: {t}")
        for n, ((x, y), s, t) in enumerate(zip(at, shade, tokens, strict=True), 1)
    ]
    return Panel(shown.name, points, lines, bars, max(0.6, min(2.0, step * 0.7)), _said(shown))


def _short(value: float) -> float:
    return float(f"{value:.6g}")
