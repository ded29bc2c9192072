"""How all sections write intervals, p-values and tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mechsteer.report.escaping import NO_BREAK
from mechsteer.report.tables import UNDEFINED, Tokens, decimal
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


def spoken(tokens: Iterable[str]) -> Tokens:
    """Tokens apart from each other, their spaces visible, none of them broken across lines.

    >>> str(spoken([" wait", "."]))
    "' wait' '.'"
    """
    return Tokens(tuple(tokens))


def quoted(text: str) -> str:
    """A token or a few words in a sentence, in quotation marks that keep its spaces and never end a line.

    >>> quoted(" happy").replace("\N{NO-BREAK SPACE}", "_")
    '"_happy"'
    """
    return f'"{text.replace(" ", NO_BREAK)}"'


def count(n: int) -> str:
    """A number of things in a sentence: in words up to twelve.

    >>> count(8), count(40)
    ('eight', '40')
    """
    words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    return words[n] if 0 <= n < len(words) else str(n)


def meanings(names: Iterable[str], known: Mapping[str, str]) -> str:
    """What each of the names means, in a sentence; empty where nothing is known of them.

    >>> meanings(["hasty", "odd"], {"hasty": "answers at once"})
    'hasty: answers at once.'
    """
    told = [f"{name}: {known[name]}" for name in dict.fromkeys(names) if name in known]
    return f"{'; '.join(told)}." if told else ""


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a sentence, the rest counted.

    >>> listed(["a", "b", "c"]), listed(list("abcdef"), most=2)
    ('a, b and c', 'a, b and 4 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
