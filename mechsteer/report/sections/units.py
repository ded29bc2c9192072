"""In what unit a report writes the scores of a metric: shares in per cent, their differences in points.

accuracy, multiple_choice, shows_concept   64.0 %      +14.0 [10.1, 18.0] points
everything else                            9.04 nats   +8.08 [7.72, 8.44] nats of log-odds
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mechsteer.report.tables import UNDEFINED, decimal
from mechsteer.results import Interval

SHARES = {
    "accuracy": "accuracy",
    "multiple_choice": "accuracy of choices",
    "shows_concept": "texts that show the concept",
}


@dataclass(frozen=True)
class Unit:
    """How scores of a metric are written. `difference` names the unit of differences, `mark` stands behind a score."""

    name: str
    difference: str
    mark: str = ""
    factor: float = 1.0
    decimals: int = 2

    def score(self, value: float) -> str:
        """A score.

        >>> unit_of("accuracy").score(0.64)
        '64.0 %'
        """
        return f"{decimal(self.factor * value, self.decimals)}{self.mark}"

    def size(self, value: float) -> str:
        """The size of a difference, with its unit.

        >>> unit_of("accuracy").size(-0.14)
        '14.0 points'
        """
        return f"{decimal(abs(self.factor * value), self.decimals)} {self.difference}"

    def margin(self, value: float) -> str:
        """A margin stated beforehand, as short as it was stated.

        >>> unit_of("accuracy").margin(0.03)
        '3 points'
        """
        return f"{self.factor * value:.6g} {self.difference}"

    def change(self, value: Interval | None) -> str:
        """A difference with its interval and no unit, for a column that names it.

        >>> unit_of("accuracy").change(Interval(value=0.14, low=-0.01, high=0.18))
        '+14.0 [−1.0, 18.0]'
        """
        if value is None or math.isnan(value.value):
            return UNDEFINED
        numbers = (decimal(self.factor * each, self.decimals) for each in (value.value, value.low, value.high))
        middle, low, high = numbers
        return f"{'+' if value.value > 0 and middle.strip('0.') else ''}{middle} [{low}, {high}]"

    def changed(self, value: Interval | None) -> str:
        """The same with the unit behind it, for a sentence."""
        return f"{self.change(value)} {self.difference}"

    def scaled(self, value: Interval) -> tuple[float, float, float]:
        """(value, low, high) in this unit."""
        return self.factor * value.value, self.factor * value.low, self.factor * value.high


def unit_of(metric: str, unit: str = "") -> Unit:
    """The unit of a metric by its name; `unit`: what a score of another metric is a number of."""
    if metric in SHARES:
        return Unit(SHARES[metric], "points", mark=" %", factor=100.0, decimals=1)
    name = "log-odds" if metric == "log_odds" else metric.replace("_", " ")
    return Unit(name, unit or ("nats of log-odds" if metric == "log_odds" else "units"))
