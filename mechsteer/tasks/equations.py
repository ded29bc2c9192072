"""Equations written out in a text, and whether they are right: "(12 + 7) * 2 - 4 = 34".

What a text says about its own arithmetic needs no model: a probe of right and wrong answers has to know more.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable
from fractions import Fraction

# Possessive throughout ("*+"): whatever has matched is never given back, so that no text takes long.
_NUMBER = r"\d++(?:,\d{3})*+(?:\.\d++)?+"
_TERM = rf"\(*+ ?+[$€£]?+ ?+{_NUMBER} ?+%?+ ?+\)*+ ?+"
_SIDE = rf"{_TERM}(?:[-+*/] ?+{_TERM})*+"
_EQUATION = re.compile(rf"(?<![\w.)*/+-])(?<![*/+-] ){_SIDE}(?:= ?+{_SIDE})++")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
_TIMES = re.compile(r"(?<=[\d)])\s*x\s*(?=[\d($])")
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
_CLOSE = Fraction(1, 100)  # of a result that is rounded to cents


def equation_counts(text: str) -> tuple[int, int]:
    """(right, wrong) equations of `text`: numbers joined by + − × / (also "x" and "÷") before "=", and what they give.

    A chain a = b = c is two equations; one without an operation on its left or right ("x = 5") says nothing and
    is not counted, nor is one that cannot be read (a bracket left open, a division by zero). A result with decimals may be
    rounded to two.

    >>> equation_counts("12+7=19, so (19 - 4) x 2 = 31. Half: 31 / 4 = 7.75 = 7.75")
    (2, 1)
    """
    right = wrong = 0
    for found in (each for line in text.splitlines() for each in _EQUATION.finditer(plain_signs(line))):
        sides = found[0].split("=")
        for left, other in itertools.pairwise(sides):
            values = [_value(side) for side in (left, other)]
            if None in values or not any(re.search(r"[-+*/]", side.strip()) for side in (left, other)):
                continue
            a, b = values[0], values[1]
            assert a is not None
            assert b is not None
            agree = abs(a - b) < _CLOSE if b.denominator > 1 else a == b
            right, wrong = right + agree, wrong + (not agree)
    return right, wrong


def plain_signs(line: str) -> str:
    """One sign for each operation, no second space (which would be another way to match), no zeros in front."""
    line = _TIMES.sub("*", " ".join(line.translate(_SIGNS).split()))
    return re.sub(r"(?<![\d.,])0+(?=\d)", "", line)


def _value(side: str) -> Fraction | None:
    """The exact value of sums and products of numbers; None where it is no such thing."""
    plain = re.sub(r"[$€£,\s]", "", side).replace("%", "/100")
    try:
        return _evaluated(ast.parse(plain, mode="eval").body, plain)
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError, ValueError):
        return None


def _evaluated(node: ast.expr, text: str) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_evaluated(node.left, text), _evaluated(node.right, text))
    written = ast.get_source_segment(text, node) if isinstance(node, ast.Constant) else None
    if written is None:
        raise ValueError(f"{text!r} is no arithmetic")
    return Fraction(written)
