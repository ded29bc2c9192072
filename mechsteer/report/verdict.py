"""The first screen of a report: question, difference, interval, verdict in words, beside the controls.

Every verdict is set in the same type and colour: "no effect" and "it only switches the style" are findings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from mechsteer.errors import DataError
from mechsteer.report.blocks import Page, escape, escape_markdown
from mechsteer.report.tables import UNDEFINED, Table, aligned, number


class Arm(NamedTuple):
    """One arm of an evaluation: its value with an interval, and a note on what it controls for."""

    name: str
    value: float
    interval: tuple[float, float]
    note: str = ""


def check_interval(name: str, interval: tuple[float, float]) -> None:
    """Raise DataError unless `interval` is (low, high) with low <= high; nan is allowed."""
    low, high = interval
    if low > high:
        raise DataError(f"the interval of {name!r} is ({low}, {high})", "give (low, high)")


@dataclass(frozen=True)
class Verdict:
    """What was asked and what came out.

    `difference` and its `interval` are in `unit` ("percentage points"), `compared` says of what ("adapter
    minus base, accuracy on 500 held-out problems"); `detectable` is the smallest difference that the test
    would have found, under `power`. `arms` are shown as a forest plot in `arms_unit`, with a dashed line at `reference`
    and the arm in question, `highlight`, filled. Raises DataError for an interval whose ends are exchanged.
    """

    question: str
    difference: float
    interval: tuple[float, float]
    unit: str
    statement: str
    arms: Sequence[Arm | tuple[str, float, tuple[float, float], str]] = ()
    detectable: float = math.nan
    power: str = "80 % power, two-sided 5 %"
    compared: str = ""
    arms_unit: str = ""
    reference: float | None = None
    highlight: str = ""
    confidence: str = "95 %"

    def __post_init__(self) -> None:
        check_interval("difference", self.interval)
        for arm in self._arms():
            check_interval(arm.name, arm.interval)

    def _arms(self) -> list[Arm]:
        return [Arm(*arm) for arm in self.arms]

    def numbers(self) -> tuple[str, str, str]:
        """Difference, interval and detectable difference as the report writes them."""
        values = [self.difference, *self.interval]
        digits = 2 if max((abs(v) for v in values if math.isfinite(v)), default=1.0) < 0.1 else 3
        difference, low, high = aligned(values, digits, signed=True)
        interval = UNDEFINED if UNDEFINED in (low, high) else f"[{low}, {high}]"
        return difference, interval, number(self.detectable, 2)

    def _arm_rows(self) -> list[tuple[Arm, str, str]]:
        arms = self._arms()
        texts = aligned([x for arm in arms for x in (arm.value, *arm.interval)])
        triples = zip(texts[::3], texts[1::3], texts[2::3], strict=True)
        return [
            (arm, value, UNDEFINED if UNDEFINED in (low, high) else f"[{low}, {high}]")
            for arm, (value, low, high) in zip(arms, triples, strict=True)
        ]

    def html(self, _page: Page, /) -> str:
        """The verdict box and the arms."""
        difference, interval, detectable = self.numbers()
        compared = f'<p class="compared">{escape(self.compared)}</p>' if self.compared else ""
        return (
            '<section class="verdict" aria-label="Verdict">\n'
            f'<p class="statement">{escape(self.statement)}</p>\n<dl class="numbers">\n'
            f"<div><dt>Difference</dt><dd><b>{difference}</b> {escape(self.unit)}</dd></div>\n"
            f"<div><dt>{escape(self.confidence)} interval</dt><dd><b>{interval}</b></dd></div>\n"
            f"<div><dt>Smallest difference this test could detect</dt>"
            f"<dd><b>{detectable}</b> <small>{escape(self.power)}</small></dd></div>\n</dl>{compared}\n"
            f"{self._forest()}</section>"
        )

    def _forest(self) -> str:
        """Rows of name, dot and interval, numbers, note. Positions are percentages: the text never scales."""
        rows = self._arm_rows()
        marks = [x for arm, _, _ in rows for x in (arm.value, *arm.interval)]
        marks = [x for x in [*marks, self.reference] if x is not None and math.isfinite(x)]
        if not marks:
            return ""
        low, high = min(marks), max(marks)
        margin = 0.06 * (high - low) or 0.5
        low, high = low - margin, high + margin

        def at(value: float) -> str:
            return f"{100 * (value - low) / (high - low):.2f}%"

        ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks = [float(tick) for tick in ticks if low <= tick <= high]
        grid = "".join(f'<line class="grid" x1="{at(t)}" x2="{at(t)}" y1="0" y2="100%"/>' for t in ticks)
        if self.reference is not None and math.isfinite(self.reference):
            x = at(self.reference)
            grid += f'<line class="reference" x1="{x}" x2="{x}" y1="0" y2="100%"/>'
        body = ""
        for arm, value, interval in rows:
            shape = grid
            if all(map(math.isfinite, arm.interval)):
                x1, x2 = map(at, arm.interval)
                shape += f'<line class="interval" x1="{x1}" x2="{x2}" y1="50%" y2="50%"/>'
            if math.isfinite(arm.value):
                shape += f'<circle cx="{at(arm.value)}" cy="50%" r="5"/>'
            css = ' class="highlight"' if arm.name == self.highlight else ""
            note = f"<small>{escape(arm.note)}</small>" if arm.note else ""
            body += (
                f'<tr{css}><th scope="row">{escape(arm.name)}{note}</th>'
                f'<td class="strip"><svg aria-hidden="true">{shape}</svg></td>'
                f'<td class="num"><b>{value}</b> <span>{interval}</span></td></tr>\n'
            )
        labels = "".join(
            f'<text x="{at(t)}" y="14">{text}</text>' for t, text in zip(ticks, aligned(ticks, 2), strict=True)
        )
        unit = escape(self.arms_unit or self.unit)
        dashed = " Dashed line: reference." if self.reference is not None else ""
        return (
            f'<table class="forest"><caption>All arms: {unit}, with '
            f"{escape(self.confidence)} intervals.{dashed}"
            f"</caption>\n<tbody>\n{body}</tbody>\n"
            f'<tfoot><tr aria-hidden="true"><td></td><td class="strip"><svg>{labels}</svg></td>'
            f"<td></td></tr></tfoot></table>\n"
        )

    def markdown(self) -> str:
        """The same statements and the arms as a table."""
        difference, interval, detectable = self.numbers()
        unit, power = escape_markdown(self.unit), escape_markdown(self.power)
        compared = f" ({escape_markdown(self.compared)})" if self.compared else ""
        parts = [
            f"**Verdict.** {escape_markdown(self.statement)}",
            f"**Difference.** {difference} {unit}, {self.confidence} interval {interval}{compared}.",
            f"**Smallest difference this test could detect.** {detectable} {unit} ({power}).",
        ]
        rows = [(arm.name, value, bounds, arm.note) for arm, value, bounds in self._arm_rows()]
        if rows:
            marked = [i for i, row in enumerate(rows) if row[0] == self.highlight]
            caption = f"All arms: {self.arms_unit or self.unit}"
            columns = ["arm", "value", f"{self.confidence} interval", "note"]
            parts.append(Table(rows, caption, columns=columns, highlight=marked).markdown())
        return "\n\n".join(parts)
