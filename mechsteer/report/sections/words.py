"""How all sections write intervals, p-values and tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mechsteer.report.tables import UNDEFINED, decimal
from mechsteer.results import Interval

Cells = dict[str, object]


def interval(value: Interval | None) -> str:
    """Value and bounds with three decimals, or "undefined".

    >>> interval(Interval(value=0.5, low=-0.25, high=1)), interval(None)
    ('0.500 [−0.250, 1.000]', 'undefined')
    """
    if value is None or math.isnan(value.value):
        return UNDEFINED
    return f"{decimal(value.value)} [{decimal(value.low)}, {decimal(value.high)}]"


def p_value(value: float | None) -> str:
    """Three decimals, and no zero that is none.

    >>> p_value(0.0004), p_value(0.04)
    ('< 0.001', '0.040')
    """
    return "< 0.001" if value is not None and value < 0.001 else decimal(value)


def spoken(tokens: Iterable[str]) -> str:
    """Tokens apart from each other, their spaces visible.

    >>> spoken([" wait", "."])
    "' wait' '.'"
    """
    return " ".join(map(repr, tokens))
