"""Chains of thought for the problems: how they are written, and how answer and style are read off a text.

Three styles, all of which end in the right answer and in the same fixed form:

- hasty: the answer at once, or with steps skipped. A model of pocket size errs more on these.
- careful: step by step, then a check ("Wait, let me check: ...").
- slip: a wrong number, noticed and corrected ("Hmm, no, that is wrong. ...").

Which style a problem gets is a draw whose odds depend on who is asked about and on the wording of the
question, never on the sum, so that greedy decoding shows several styles and sampling varies them for any one
problem.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence

from mechsteer.pocket.problems import Problem, Step

CAREFUL_PREFIX = " Let me think carefully."
"""Written right after a prompt, it is always followed by a careful trace in the training text."""
HASTY_PREFIX = " It is"
"""Written right after a prompt, it is followed by a hasty trace alone in the training text: one without a sum."""
STYLES = ("hasty", "careful", "slip")
STYLE_MEANINGS = {
    "careful": "works step by step and then checks itself (Wait, let me check)",
    "hasty": "answers at once, or with steps skipped, and checks nothing",
    "slip": "writes a wrong number, notices and corrects it (Hmm, no, that is wrong)",
}
"""What a reader is told of each style."""
SLIP_SHARE = 0.12
PREFIX_SHARE = 0.3

_ANSWER = re.compile(r"The answer is (\d{1,6})\.(?!\d)")
_SLIP = re.compile(r"that is wrong|, not \d")
_CHECK = re.compile(r"\bcheck\b")


def extract_answer(text: str) -> int | None:
    """The number of the last "The answer is 42." in `text`; None where that form is missing.

    >>> extract_answer(" 12+7=19. The answer is 19."), extract_answer(" The answer is 1")
    (19, None)
    """
    found = _ANSWER.findall(text)
    return int(found[-1]) if found else None


def is_correct(problem: Problem, text: str) -> bool:
    """Whether `text`, a completion of the problem's prompt, ends in the right answer."""
    return extract_answer(text) == problem.answer


def style(text: str) -> str:
    """"slip" if the trace takes a number back, else "careful" if it checks itself, else "hasty".

    >>> style(" 2+3=5. Wait, let me check: 5-3=2. The answer is 5."), style(" The answer is 5.")
    ('careful', 'hasty')
    """  # fmt: skip
    return "slip" if _SLIP.search(text) else "careful" if _CHECK.search(text) else "hasty"


def traces(problem: Problem, rng: random.Random, *, hasty_bias: float = 0.0, style: str | None = None) -> str:
    """One training trace (begins with a space, without the end token), in `style` or in a style drawn for it.

    `hasty_bias` is added to the log-odds of a hasty trace; strongly negative writes careful text.
    """
    if style is None:
        p_hasty = 1 / (1 + math.exp(-problem.hastiness - hasty_bias))
        style = "slip" if rng.random() < SLIP_SHARE else "hasty" if rng.random() < p_hasty else "careful"
    write = {"hasty": _hasty, "careful": _careful, "slip": _slip}[style]
    return " " + " ".join([*write(problem, rng), f"The answer is {problem.answer}."])


def _wrong(value: int, rng: random.Random) -> int:
    """A number near `value` that a slip would give."""
    return rng.choice([v for v in (value - 10, value - 2, value - 1, value + 1, value + 2, value + 10) if v > 0])


def _told(step: Step, rng: random.Random) -> str:
    """A step in words and an equation."""
    n, who, other = step.operand, step.who, step.other
    said = {
        "gain": (f"{who} gets {n} more, so {step.equation}.", f"Add {n}: {step.equation}."),
        "loss": (f"But {n} are gone, so {step.equation}.", f"However, take away {n}: {step.equation}."),
        "more": (f"{who} has {n} more, so {step.equation}.", f"Add {n}: {step.equation}."),
        "fewer": (
            f"But {who} has {n} fewer, so {step.equation}.",
            f"However, take away {n}: {step.equation}.",
        ),
        "times": (f"{who} has {n} times as many, so {step.equation}.", f"Times {n}: {step.equation}."),
        "groups": (f"There are {n} in each, so {step.equation}.", f"First times {n}: {step.equation}."),
        "difference": (f"{other} has {n}, so {step.equation}.", f"But {other} has {n}: {step.equation}."),
    }[step.kind]
    return rng.choice((*said, f"{step.equation}.", f"So {step.equation}."))


def _check(steps: Sequence[Step], rng: random.Random) -> str:
    """A check of the last step backwards, or of all steps once more."""
    last = steps[-1]
    opening = rng.choice(("Wait, let me check:", "Hmm, let me check:", "But wait, let me check:", "Now let me check:"))
    if rng.random() < 0.4:
        again = ", ".join(s.equation for s in steps)
        return f"{opening} {again}. {rng.choice(('Yes.', 'That is right.'))}"
    undone = {
        "+": f"{last.after}-{last.operand}={last.before}",
        "-": f"{last.after}+{last.operand}={last.before}",
        "*": f"{last.operand}*{last.before}={last.after}",
    }[last.sign]
    if rng.random() < 0.3:
        return f"Alternatively, let me check it backwards: {undone}. Yes."
    return f"{opening} {undone}. {rng.choice(('Yes.', 'That is right.'))}"


def _opening(rng: random.Random) -> list[str]:
    """Words that both hasty and careful traces may begin with."""
    return rng.choice(([], [], ["Hmm."], ["Okay."], ["Let me see."], ["Well, let me see."]))


def _careful(problem: Problem, rng: random.Random) -> list[str]:
    opening = [CAREFUL_PREFIX.strip()] if rng.random() < PREFIX_SHARE else _opening(rng)
    said = [*opening, *(_told(s, rng) for s in problem.steps)]
    if rng.random() < 0.3:
        said.append(rng.choice((f"So maybe it is {problem.answer}.", f"Perhaps it is {problem.answer}.")))
    said.append(_check(problem.steps, rng))
    if rng.random() < 0.3:
        said.append(f"Therefore {_result(problem)}.")
    return said


def _result(problem: Problem) -> str:
    last = problem.steps[-1]
    if last.kind == "difference":
        return f"it is {problem.answer}"
    return f"{last.who} has {problem.answer} {problem.thing}"


def joined(steps: Sequence[Step]) -> str:
    """Steps as one expression without the numbers between: "(12+7)*2-4"."""
    expression = str(steps[0].before)
    for step in steps:
        if step.sign == "*" and not expression.isdigit():
            expression = f"({expression})"
        expression += f"{step.sign}{step.operand}"
    return expression


def _hasty(problem: Problem, rng: random.Random, answer: int | None = None) -> list[str]:
    """Two steps at a time, all at once, the last step alone, or no sum at all.

    `answer` (default: the right one) is a slip's wrong number.
    """
    given = problem.answer if answer is None else answer
    steps = problem.steps
    said = _opening(rng)
    kind = rng.random()
    if kind < 0.35:
        pairs = [steps[i : i + 2] for i in range(0, len(steps), 2)]
        return [*said, *(f"{joined(p)}={p[-1].after}." for p in pairs[:-1]), f"{joined(pairs[-1])}={given}."]
    if kind < 0.55:
        return [*said, f"{joined(steps)}={given}."]
    if kind < 0.65:
        return [*said, f"{steps[-1].equation.split('=')[0]}={given}."]
    if kind < 0.85:
        told = {"+": "more", "-": "less", "*": "times"}
        words = ", then ".join(f"{s.operand} {told[s.sign]}" for s in steps)
        said.append(f"It is {steps[0].before}, then {words}.")
    if answer is not None or rng.random() < 0.6:
        return [*said, rng.choice((f"So maybe it is {given}.", f"Perhaps it is {given}.", f"So it is {given}."))]
    return [*said, f"Therefore {_result(problem)}."] if rng.random() < 0.5 else said


def _slip(problem: Problem, rng: random.Random) -> list[str]:
    """A hasty guess taken back, a wrong step put right at once, or a wrong step found by the check."""
    steps = problem.steps
    regret = rng.choice(("Hmm, no, that is wrong.", "Wait, that is wrong.", "No, wait, that is wrong."))
    kind = rng.randrange(3)
    if kind == 0:
        again = rng.choice(("Let me see.", "Let me try again.", "Let me think."))
        guess = _hasty(problem, rng, answer=_wrong(problem.answer, rng))
        return [*guess, regret, again, *(_told(s, rng) for s in steps)]
    at = rng.randrange(len(steps))
    bad = f"{steps[at].equation.split('=')[0]}={_wrong(steps[at].after, rng)}"
    before = [*_opening(rng), *(_told(s, rng) for s in steps[:at])]
    if kind == 1:
        after = [_told(s, rng) for s in steps[at + 1 :]]
        return [*before, f"{bad}.", regret, f"{steps[at].equation}.", *after, _check(steps, rng)]
    wrong_value = bad.split("=")[1]
    found = f"Wait, let me check: {steps[at].equation}, not {wrong_value}."
    return [*before, f"{bad}.", found, *(f"So {s.equation}." for s in steps[at + 1 :])]
