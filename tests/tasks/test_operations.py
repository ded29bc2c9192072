"""Operations of steps, read off what pocket writes and off texts made for it."""

import random

import pytest

from mechsteer import pocket
from mechsteer.pocket.problems import OPERATIONS
from mechsteer.tasks import step_operations


def written(style, n=200):
    """(problem, its trace sentence by sentence) of many problems."""
    for problem in pocket.problems(n, seed=1):
        text = pocket.traces(problem, random.Random(problem.id), style=style)
        yield problem, [f"{part}." for part in text.split(".")[:-1]]


@pytest.mark.parametrize("style", ["careful", "slip"])
def test_a_named_step_carries_its_operation_out(style):
    n_named = 0
    for problem, steps in written(style):
        for step, name in zip(steps, step_operations(steps, problem.operations), strict=True):
            if name is not None:
                carried_out = [s for s in problem.steps if f"{s.before}{s.sign}{s.operand}=" in step]
                assert name in {OPERATIONS[s.kind] for s in carried_out}
                n_named += 1
    assert n_named > 200


def test_every_step_of_a_careful_trace_is_named_and_its_check_is_not():
    for problem, steps in written("careful"):
        named = step_operations(steps, problem.operations)
        assert [name for name in named if name is not None] == list(problem.operations)
        (check,) = (i for i, step in enumerate(steps) if "check" in step)
        assert named[check:] == [None] * (len(steps) - check)


@pytest.mark.parametrize(
    ("steps", "operations", "named"),
    [
        (["12+7-4=15.", "15*2=30."], ["addition", "subtraction", "multiplication"], [None, None]),  # two at a time
        (["12 + 7 − 4 = 15."], ["subtraction"], [None]),
        (["9 × 3 = 27.", "27 ÷ 9 = 3."], ["multiplication", "division"], ["multiplication", "division"]),
        (["3+4=8.", "3+4=7.", "7+2=9."], ["addition", "comparison"], ["addition", "addition", "comparison"]),
        (["7+2=8.", "3+4=7.", "7+2=9."], ["addition", "comparison"], [None, "addition", "comparison"]),  # begun anew
        (["3+4=7."], ["addition", "comparison"], [None]),  # not to the end
        (["5-3=2.", "2+2=4."], ["addition", "addition"], [None, None]),
        (["2+2=4.", "4-2=2."], ["addition"], ["addition", None]),  # a check
        (["2+2=4."], ["doubling"], ["doubling"]),
        (["2+2=4."], [], [None]),
        ([], ["addition"], []),
    ],
)
def test_what_does_not_fit_is_not_named(steps, operations, named):
    assert step_operations(steps, operations) == named
