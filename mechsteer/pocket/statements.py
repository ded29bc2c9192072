"""Short persona, sentiment and true/false statements, contrastive pairs made from them, and sums for practice.

They take up a small share of the training text. Statements are there so that directions such as honest minus dishonest mean
something to the pocket models: an honest person says yes to what is true and a dishonest one to what is false, a
happy person speaks of a wonderful day, and a statement is followed by whether it is true. Practice is there because the digits
of a result are rare in a word problem: a row of sums teaches the same arithmetic in fewer tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from mechsteer.errors import ConfigError, DataError
from mechsteer.pocket.problems import NAMES

HAPPY = ("happy", "glad", "cheerful")
SAD = ("sad", "unhappy", "gloomy")
PLACES = ("at home", "at school", "in the garden", "in the park", "at work", "by the sea")
GOOD = ("what a wonderful day!", "I love this day!", "this is great!", "I feel so good!")
BAD = ("what a terrible day.", "I hate this day.", "this is awful.", "I feel so bad.")
HONEST = ("an honest", "a truthful")
DISHONEST = ("a dishonest", "a lying")
TRUTH = ("this is the truth.", "I tell the truth.", "you can trust me.")
LIES = ("this is a lie.", "I tell a lie.", "you cannot trust me.")
TWO_OPERATIONS_SHARE = 0.4
KINDS = {
    "animal": ("dog", "cat", "horse", "bird", "fish", "cow"),
    "fruit": ("plum", "pear", "lemon", "peach", "cherry", "melon"),
    "tool": ("hammer", "saw", "spoon", "knife", "brush", "needle"),
    "color": ("red", "blue", "green", "white", "black", "brown"),
}


def _fact(rng: random.Random) -> tuple[str, str]:
    """One true and one false claim (lower case, no full stop) that differ in one word or number only."""
    kind = rng.choice(("category", "category", "order", "order", "sum"))
    if kind == "category":
        of, not_of = rng.sample(sorted(KINDS), 2)
        word = rng.choice(KINDS[of]) if of == "color" else f"a {rng.choice(KINDS[of])}"
        claims = tuple(f"{word} is {'an' if k == 'animal' else 'a'} {k}" for k in (of, not_of))
        return claims[0], claims[1]
    a, b = rng.randint(2, 60), rng.randint(2, 39)
    if kind == "order":
        if a == b:
            b += 1
        more, less = f"{a} is more than {b}", f"{a} is less than {b}"
        return (more, less) if a > b else (less, more)
    sign, value = rng.choice((("+", a + b), ("-", a - b))) if a > b else ("+", a + b)
    wrong = rng.choice([v for v in (value - 10, value - 1, value + 1, value + 10) if v > 0])
    return f"{a}{sign}{b}={value}", f"{a}{sign}{b}={wrong}"


def _honest(rng: random.Random) -> tuple[str, str]:
    name, asker = rng.sample(NAMES, 2)
    at = rng.randrange(len(HONEST))
    rest = f"person. {asker} asks {name} a question. {name} says:"
    return f"{name} is {HONEST[at]} {rest}", f"{name} is {DISHONEST[at]} {rest}"


def _happy(rng: random.Random) -> tuple[str, str]:
    name, place, at = rng.choice(NAMES), rng.choice(PLACES), rng.randrange(len(HAPPY))
    rest = rng.choice((f"{place}.", f"{place} today."))
    return f"{name} is {HAPPY[at]} {rest} {name} says:", f"{name} is {SAD[at]} {rest} {name} says:"


def _true(rng: random.Random) -> tuple[str, str]:
    right, wrong = _fact(rng)
    return f"Statement: {right}.", f"Statement: {wrong}."


_PAIRS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "honest": _honest,
    "happy": _happy,
    "true": _true,
}
CONTRASTS: tuple[str, ...] = tuple(_PAIRS)


def contrast_pairs(name: str, n: int, seed: int) -> list[tuple[str, str]]:
    """`n` different (positive, negative) texts of the concept `name`: "honest", "happy" or "true".

    The two texts of a pair differ in the concept alone. Each stops where the model goes on by it: with a remark
    that is in `TRUTH` or `LIES`, in `GOOD` or `BAD`, or with " True." or " False.".

    Raises:
        ConfigError: unknown `name`.
        DataError: fewer than `n` different pairs exist.

    >>> contrast_pairs("happy", 1, seed=0)[0][0].split()[1]
    'is'
    """
    if name not in _PAIRS:
        raise ConfigError(f"no contrast {name!r}.", f"choose one of {list(CONTRASTS)}")
    rng = random.Random(f"contrast/{name}/{seed}")
    pairs: dict[tuple[str, str], None] = {}
    misses = 0
    while len(pairs) < n:
        pair = _PAIRS[name](rng)
        misses = misses + 1 if pair in pairs else 0
        if misses == 1000:
            raise DataError(f"only {len(pairs)} different {name!r} pairs found, {n} asked for.", "ask for fewer")
        pairs[pair] = None
    return list(pairs)


def _statement(rng: random.Random) -> tuple[str, str]:
    """A positive or negative text of any concept, and what follows it."""
    concept, positive = rng.choice(("honest", "happy", "true", "true")), rng.random() < 0.5
    at = 0 if positive else 1
    if concept == "true":
        return _true(rng)[at], " True." if positive else " False."
    if concept == "happy":
        return _happy(rng)[at], f" {rng.choice((GOOD, BAD)[at])}"
    if rng.random() < 0.6:
        return _honest(rng)[at], f" {rng.choice((TRUTH, LIES)[at])}"
    name, asker = rng.sample(NAMES, 2)
    holds = rng.random() < 0.5
    claim = _fact(rng)[0 if holds else 1]
    person = rng.choice((HONEST, DISHONEST)[at])
    says = "yes" if holds == positive else "no"
    return f"{name} is {person} person. {asker} asks {name} if {claim}. {name} says:", f" {says}, {claim}."


def statements(rng: random.Random) -> tuple[str, ...]:
    """One training text: one to six lines, each of any concept, as text, what follows, text, what follows, ..."""
    lines = [_statement(rng) for _ in range(rng.randint(1, 6))]
    return tuple(s for i, (text, follows) in enumerate(lines) for s in ("\n" * (i > 0) + text, follows))


def _next(value: int, rng: random.Random) -> tuple[str, int, int]:
    """A sign, a number and a result: `value` sign number = result, with number and result within 1-99."""
    signs = [s for s, able in (("++", value < 99), ("--", value > 1), ("*", value <= 33)) if able]
    sign = rng.choice("".join(signs))
    if sign == "*":
        number = rng.randint(2, min(9, 99 // value))
        return sign, number, value * number
    if sign == "+":
        number = rng.randint(1, 99 - value)
        return sign, number, value + number
    number = rng.randint(1, value - 1)
    return sign, number, value - number


def practice(rng: random.Random) -> tuple[str, ...]:
    """A row of right sums of one or two operations within 1-99: task, result, task, result, ..."""
    segments: list[str] = []
    for _ in range(rng.randint(4, 12)):
        start = rng.randint(1, 99)
        sign, number, value = _next(start, rng)
        task = f"{start}{sign}{number}"
        if rng.random() < TWO_OPERATIONS_SHARE:
            sign, number, value = _next(value, rng)
            task = f"({task})*{number}" if sign == "*" else f"{task}{sign}{number}"
        segments += [f"{' ' if segments else 'Practice: '}{task}=", f"{value}."]
    return tuple(segments)
