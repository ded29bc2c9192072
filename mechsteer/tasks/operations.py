"""Which operation each step of a written solution carries out: the problem's own, in their order, read off the equations.

A problem may tell its operations (`Item.meta["operations"]`, as pocket's do); its solutions tell them only by a sign.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mechsteer.tasks.equations import plain_signs

_SIGNS = {"addition": "+", "subtraction": "-", "multiplication": "*", "division": "/", "comparison": "+-"}
_ANY = "+-*/"
_NUMBER = r"\d++(?:\.\d++)?+"
_EQUATION = re.compile(
    rf"(?<![\w.)*/+-])(?<![*/+-] )((?P<a>{_NUMBER}) ?(?P<sign>[-+*/]) ?{_NUMBER}) ?= ?(?P<c>{_NUMBER})"
)


def step_operations(steps: Sequence[str], operations: Sequence[str]) -> list[str | None]:
    """The operation of each of a text's `steps`; None for those that carry none out.

    Named are the steps of the first run of equations a ∘ b = c that does all operations in turn: each goes on from the
    result before it, by a sign that its operation may have. One with the same a ∘ b as before is of the same operation (a
    slip, corrected). What joins several in one equation, leaves some out, repeats one or checks them is not named.

    >>> step_operations(["Hmm.", " 3+4=8.", " No, 3+4=7.", " Then 7*2=14.", " Check: 14/2=7."], ["addition", "multiplication"])
    [None, 'addition', 'addition', 'multiplication', None]
    """
    run: dict[int, str] = {}
    number, left, result = -1, "", ""
    for i, step in enumerate(steps):
        found = _EQUATION.search(said := plain_signs(step))
        if (found is None and "=" not in said) or (found and (found[1], found["c"]) == (left, result)):
            continue
        if found is None or found[1] != left:
            if run and number == len(operations) - 1:
                break
            goes_on = found is not None and bool(run) and found["a"] == result
            run, number = (run, number + 1) if goes_on else ({}, 0)
        if found is None or not operations or found["sign"] not in _SIGNS.get(operations[number], _ANY):
            run, number, left = {}, -1, ""
            continue
        run[i], left, result = operations[number], found[1], found["c"]
    is_whole = bool(run) and number == len(operations) - 1
    return [run.get(i) if is_whole else None for i in range(len(steps))]
