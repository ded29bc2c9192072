"""Generated grade-school word problems.

A problem is a chain of 1-4 steps of addition, subtraction, small multiplication and comparison over numbers
from 1 to 99. Every step is told in one sentence; people, objects and phrasing vary. The size of the operands
and the kinds of operation are drawn independently of the number of steps, so that a problem of one step can
be harder than a problem of three.

The split (train, dev or test) is a function of the chain of numbers and signs alone: whoever it is told about
and however it is worded, a chain occurs in one split only.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from mechsteer.errors import ConfigError, DataError

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
MAX_STEPS = 4
MAX_VALUE = 99

HE = ("Tom", "Ben", "Max", "Sam", "Leo", "Jack", "Paul", "Nick", "Adam", "Hugo", "Omar", "Ivan")
SHE = ("Ann", "Mia", "Eva", "Lucy", "Rosa", "Nina", "Kate", "Sara", "Ella", "Zoe", "Ruth", "Lily")
NAMES = HE + SHE
OBJECTS = (
    "apples", "books", "cards", "coins", "pens", "shells", "stones", "cakes", "balls", "stamps",
    "eggs", "flowers", "cookies", "toys", "plums", "keys", "hats", "cups", "beads", "nuts",
)  # fmt: skip
CONTAINERS = ("bags", "boxes", "jars")

SIGNS = {
    "gain": "+", "loss": "-", "more": "+", "fewer": "-", "difference": "-", "times": "*", "groups": "*",
}  # fmt: skip
OPERATIONS = {
    "gain": "addition",
    "loss": "subtraction",
    "more": "comparison",
    "fewer": "comparison",
    "difference": "comparison",
    "times": "multiplication",
    "groups": "multiplication",
}


@dataclass(frozen=True)
class Step:
    """One step: `before` `sign` `operand` = `after`. `who` owns the result, `other` is named too."""

    kind: str
    before: int
    operand: int
    after: int
    who: str
    other: str

    @property
    def sign(self) -> str:
        return SIGNS[self.kind]

    @property
    def equation(self) -> str:
        """For example "12+7=19": no spaces, so that a number's digits follow its sign directly."""
        return f"{self.before}{self.sign}{self.operand}={self.after}"


@dataclass(frozen=True)
class Problem:
    """A problem, its verified answer, and the exact text to give the model (`prompt`, which ends in "A:").

    The last three fields are what the text was made from; traces are written from them.
    """

    id: str
    question: str
    answer: int
    n_steps: int
    operations: tuple[str, ...]
    prompt: str
    steps: tuple[Step, ...]
    thing: str
    container: str
    hastiness: float
    """Log-odds of a hasty training trace: a matter of who is asked about and how, never of the sum."""

    @property
    def chain(self) -> str:
        """The numbers and signs alone, as "12+7-4"; a sum or product starts with the smaller number."""
        return _chain(self.steps)


def _chain(steps: tuple[Step, ...]) -> str:
    first = steps[0]
    a, b = first.before, first.operand
    if first.sign in "+*":
        a, b = sorted((a, b))
    return f"{a}{first.sign}{b}" + "".join(f"{s.sign}{s.operand}" for s in steps[1:])


def split_of(chain: str) -> Split:
    """The split that a chain belongs to: 10 % test, 10 % dev, the rest train, by its SHA-256."""
    part = hashlib.sha256(chain.encode()).digest()[0] % 10
    return "test" if part == 0 else "dev" if part == 1 else "train"


def _operand(kind: str, value: int, large: bool, rng: random.Random) -> int | None:
    """An operand for a step of `kind` from `value` that stays within 1..MAX_VALUE, or None."""
    if kind == "times":
        most = min(MAX_VALUE // value, 9 if value < 10 else 4)
        low = 2
    else:
        room = MAX_VALUE - value if SIGNS[kind] == "+" else value - 1
        low, most = (10, min(room, 59)) if large else (2, min(room, 9))
    return rng.randint(low, most) if most >= low else None


def _steps(rng: random.Random) -> tuple[Step, ...] | None:
    """One random chain, or None where the draw ran out of room."""
    n_steps = rng.randint(1, MAX_STEPS)
    p_large = rng.choice((0.0, 0.5, 0.9))
    people = rng.sample(NAMES, MAX_STEPS + 2)
    who = people.pop()
    steps: list[Step] = []
    if rng.random() < 0.2:
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        steps.append(Step("groups", a, b, a * b, who, ""))
        value = a * b
    else:
        value = rng.randint(10, 69) if rng.random() < p_large else rng.randint(2, 20)
    while len(steps) < n_steps:
        last = len(steps) == n_steps - 1
        kinds = ["gain", "gain", "loss", "loss", "more", "fewer", "times", "times"] + ["difference"] * last
        kind = rng.choice(kinds)
        operand = _operand(kind, value, rng.random() < p_large, rng)
        if operand is None:
            return None
        other = people.pop()
        after = {"+": value + operand, "-": value - operand, "*": value * operand}[SIGNS[kind]]
        if kind in ("more", "fewer", "times"):
            who, other = other, who
        steps.append(Step(kind, value, operand, after, who, other))
        value = after
    return tuple(steps)


def _sentence(step: Step, thing: str, here: str, rng: random.Random) -> str:
    """The sentence that tells a step; `here` is how the owner is called (name or pronoun)."""
    n, who, other = step.operand, step.who, step.other
    if step.kind == "gain":
        told = rng.choice(
            (f"{here} buys {n} more {thing}", f"{here} finds {n} {thing}",
             f"{here} gets {n} {thing} from {other}", f"{other} gives {who} {n} {thing}")
        )  # fmt: skip
    elif step.kind == "loss":
        told = rng.choice(
            (f"{here} gives {n} {thing} to {other}", f"{here} loses {n} {thing}", f"{here} sells {n} {thing}",
             f"{other} takes {n} {thing} from {who}")
        )  # fmt: skip
    elif step.kind == "difference":
        return f"{other} has {n} {thing}."
    else:
        much = {"more": f"{n} more", "fewer": f"{n} fewer", "times": f"{n} times as many"}[step.kind]
        return f"{who} has {much} {thing} {'as' if step.kind == 'times' else 'than'} {other}."
    return rng.choice(("", "Then ", "Later ", "After that ")) + told + "."


def _ask(steps: tuple[Step, ...], thing: str, rng: random.Random) -> tuple[str, float]:
    """The question itself, and what its wording adds to the log-odds of a hasty trace."""
    last = steps[-1]
    if last.kind == "difference":
        forms = (f"How many more {thing} does {last.who} have than {last.other}?",
                 f"How many fewer {thing} does {last.other} have than {last.who}?")  # fmt: skip
    else:
        forms = (f"How many {thing} does {last.who} have now?", f"How many {thing} does {last.who} have?",
                 f"What is the number of {thing} that {last.who} has?",
                 f"How many {thing} does {last.who} have in the end?")  # fmt: skip
    at = rng.randrange(len(forms))
    return forms[at], 0.9 if 2 * at < len(forms) else -0.9


def draw(rng: random.Random) -> Problem:
    """One random problem of any split."""
    steps = None
    while steps is None:
        steps = _steps(rng)
    thing, container = rng.choice(OBJECTS), rng.choice(CONTAINERS)
    first = steps[0]
    if first.kind == "groups":
        told = [f"{first.who} has {first.before} {container} with {first.operand} {thing} in each."]
    else:
        owner = first.other if first.kind in ("more", "fewer", "times") else first.who
        told = [f"{owner} has {first.before} {thing}."]
    opener = told[0].split(" ", 1)[0]
    for i, step in enumerate(steps):
        if step.kind != "groups":
            pronoun = ("he" if step.who in HE else "she") if i == 0 or steps[i - 1].who == step.who else step.who
            told.append(_sentence(step, thing, rng.choice((pronoun, step.who)), rng))
    ask, hastiness = _ask(steps, thing, rng)
    question = " ".join(t[0].upper() + t[1:] for t in [*told, ask])
    chain = _chain(steps)
    return Problem(
        id=f"{split_of(chain)}-{hashlib.sha256(chain.encode()).hexdigest()[:10]}",
        question=question,
        answer=steps[-1].after,
        n_steps=len(steps),
        operations=tuple(OPERATIONS[s.kind] for s in steps),
        prompt=f"Q: {question}\nA:",
        steps=steps,
        thing=thing,
        container=container,
        hastiness=hastiness + (0.9 if NAMES.index(opener) % 2 else -0.9),
    )


def stream(rng: random.Random, split: Split) -> Iterator[Problem]:
    """Endless problems of one split; chains may recur."""
    if split not in SPLITS:
        raise ConfigError(f"no split {split!r}.", f"choose one of {list(SPLITS)}")
    while True:
        problem = draw(rng)
        if split_of(problem.chain) == split:
            yield problem


MOST = 1_000_000
"""problems of a call: a million take minutes already"""


def problems(
    n: int, *, seed: int, split: Split = "train", accept: Callable[[Problem], bool] | None = None
) -> list[Problem]:
    """`n` different problems of one split, a function of `seed` alone; of those alone that `accept` says yes to.

    No chain of numbers and signs occurs twice, nor in two splits. A shorter call begins a longer.

    Raises:
        ConfigError: unknown split.
        DataError: the split does not hold `n` different problems that are accepted.

    >>> [p.answer for p in problems(3, seed=0)] == [p.answer for p in problems(9, seed=0)][:3]
    True
    """
    if n > MOST:
        raise DataError(f"{n} problems of the split {split!r} are too many.", f"ask for at most {MOST}")
    found: dict[str, Problem] = {}
    misses = 0
    source = stream(random.Random(f"problems/{seed}"), split)
    while len(found) < n:
        problem = next(source)
        is_new = problem.chain not in found and (accept is None or accept(problem))
        misses = 0 if is_new else misses + 1
        if misses == (1000 if accept is None else 5000):
            raise DataError(f"only {len(found)} different problems found for split {split!r}.", "ask for fewer")
        if is_new:
            found[problem.chain] = problem
    return list(found.values())
