"""Arms with intervals, one row each: text that never scales, dots and lines at percentages of a strip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from mechsteer.errors import DataError
from mechsteer.report.blocks import Page
from mechsteer.report.tables import UNDEFINED, Table, aligned
from mechsteer.report.templates import render
from mechsteer.results import Shown


class Arm(NamedTuple):
    """One arm of an evaluation: its value with an interval, and a note on what it controls for."""

    name: str
    value: float
    interval: tuple[float, float]
    note: str = ""


AnyArm = Arm | tuple[str, float, tuple[float, float], str]


def check_interval(name: str, interval: tuple[float, float]) -> None:
    """Raise DataError unless `interval` is (low, high) with low <= high; nan is allowed."""
    low, high = interval
    if low > high:
        raise DataError(f"the interval of {name!r} is ({low}, {high})", "give (low, high)")


@dataclass(frozen=True)
class Forest(Shown):
    """A dot and an interval for each arm in `unit`; `highlight` is filled; a dashed line at `reference`.

    Raises DataError for an interval whose ends are exchanged.
    """

    arms: Sequence[AnyArm]
    unit: str
    title: str = "All arms"
    reference: float | None = None
    highlight: str = ""
    confidence: str = "95 %"

    def __post_init__(self) -> None:
        for arm in self._arms():
            check_interval(arm.name, arm.interval)

    def _arms(self) -> list[Arm]:
        return [Arm(*arm) for arm in self.arms]

    def _rows(self) -> list[tuple[Arm, str, str]]:
        """Each arm with its value and its interval as text."""
        arms = self._arms()
        texts = aligned([x for arm in arms for x in (arm.value, *arm.interval)])
        triples = zip(texts[::3], texts[1::3], texts[2::3], strict=True)
        return [
            (arm, value, UNDEFINED if UNDEFINED in (low, high) else f"[{low}, {high}]")
            for arm, (value, low, high) in zip(arms, triples, strict=True)
        ]

    def html(self, _page: Page, /) -> str:
        """Rows of name, dot and interval, numbers, note; nothing where no arm has a value."""
        marks = [x for arm in self._arms() for x in (arm.value, *arm.interval)]
        marks = [x for x in [*marks, self.reference] if x is not None and math.isfinite(x)]
        if not marks:
            return ""
        low, high = min(marks), max(marks)
        margin = 0.06 * (high - low) or 0.5
        low, high = low - margin, high + margin

        def at(value: float | None) -> str:
            known = value is not None and math.isfinite(value)
            return f"{100 * (value - low) / (high - low):.2f}%" if known else ""

        ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks = [float(tick) for tick in ticks if low <= tick <= high]
        rows = []
        for arm, value, interval in self._rows():
            ends = [at(end) for end in arm.interval] if all(map(math.isfinite, arm.interval)) else ["", ""]
            shown = {"name": arm.name, "note": arm.note, "value": value, "interval": interval}
            marked = {"x": at(arm.value), "low": ends[0], "high": ends[1], "highlight": arm.name == self.highlight}
            rows.append(shown | marked)
        dashed = " Dashed line: reference." if self.reference is not None else ""
        return render(
            "forest.html",
            caption=f"{self.title}: {self.unit}, with {self.confidence} intervals.{dashed}",
            rows=rows,
            ticks=[{"x": at(tick), "text": text} for tick, text in zip(ticks, aligned(ticks, 2), strict=True)],
            reference=at(self.reference),
        )

    def markdown(self) -> str:
        """The arms as a table; nothing where there is none."""
        rows = [(arm.name, value, bounds, arm.note) for arm, value, bounds in self._rows()]
        if not rows:
            return ""
        marked = [i for i, row in enumerate(rows) if row[0] == self.highlight]
        columns = ["arm", "value", f"{self.confidence} interval", "note"]
        return Table(rows, f"{self.title}: {self.unit}", columns=columns, highlight=marked).markdown()
