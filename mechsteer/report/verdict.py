"""The first screen of a report: question, difference, interval, verdict in words, beside the controls.

Every verdict is set in the same type and colour: "no effect" and "it only switches the style" are findings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from mechsteer.report.blocks import Page
from mechsteer.report.escaping import escape_markdown
from mechsteer.report.forest import AnyArm, Forest, check_interval
from mechsteer.report.tables import UNDEFINED, aligned, decimal, number
from mechsteer.report.templates import render


class SideEffect(NamedTuple):
    """What else a steering does, beside what it is for: a value with its unit, and what it is held against."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """What was asked and what came out.

    `statement` answers in one or two sentences, `more` goes on in smaller type, `side_effects` stand beside the
    difference and `warnings` below it.
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
    arms: Sequence[AnyArm] = ()
    detectable: float = math.nan
    power: str = "80 % power, two-sided 5 %"
    compared: str = ""
    arms_unit: str = ""
    reference: float | None = None
    highlight: str = ""
    confidence: str = "95 %"
    decimals: int | None = None
    """of difference and interval; None: three significant digits"""
    more: str = ""
    side_effects: Sequence[SideEffect] = ()
    warnings: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_interval("difference", self.interval)
        self._forest()

    def _forest(self) -> Forest:
        return Forest(
            self.arms,
            self.arms_unit or self.unit,
            reference=self.reference,
            highlight=self.highlight,
            confidence=self.confidence,
        )

    def numbers(self) -> tuple[str, str, str]:
        """Difference, interval and detectable difference as the report writes them."""
        values = [self.difference, *self.interval]
        if self.decimals is not None:
            texts = [_signed(value, self.decimals) for value in values]
            bounds = UNDEFINED if UNDEFINED in texts[1:] else f"[{texts[1]}, {texts[2]}]"
            return texts[0], bounds, decimal(self.detectable, self.decimals)
        digits = 2 if max((abs(v) for v in values if math.isfinite(v)), default=1.0) < 0.1 else 3
        difference, low, high = aligned(values, digits, signed=True)
        interval = UNDEFINED if UNDEFINED in (low, high) else f"[{low}, {high}]"
        return difference, interval, number(self.detectable, 2)

    def html(self, page: Page, /) -> str:
        """The verdict box and the arms."""
        difference, interval, detectable = self.numbers()
        return render(
            "verdict.html",
            statement=self.statement,
            difference=difference,
            unit=self.unit,
            confidence=self.confidence,
            interval=interval,
            detectable=detectable,
            power=self.power,
            more=self.more,
            side_effects=self.side_effects,
            warnings=self.warnings,
            compared=self.compared,
            forest=Markup(self._forest().html(page)),
        )

    def markdown(self) -> str:
        """The same statements and the arms as a table."""
        difference, interval, detectable = self.numbers()
        unit, power = escape_markdown(self.unit), escape_markdown(self.power)
        compared = f" ({escape_markdown(self.compared)})" if self.compared else ""
        parts = [
            f"**Verdict.** {escape_markdown(self.statement)}",
            *([escape_markdown(self.more)] if self.more else []),
            f"**Difference.** {difference} {unit}, {self.confidence} interval {interval}{compared}.",
            f"**Smallest difference this test could detect.** {detectable} {unit} ({power}).",
            *(
                f"**{escape_markdown(name)}.** {escape_markdown(f'{value} ({note})' if note else value)}."
                for name, value, note in self.side_effects
            ),
            *(f"> **Warning.** {escape_markdown(text)}" for text in self.warnings),
        ]
        arms = self._forest().markdown()
        return "\n\n".join([*parts, *([arms] if arms else [])])


def _signed(value: float, decimals: int) -> str:
    text = decimal(value, decimals)
    return f"+{text}" if value > 0 and text.strip("0.") else text
