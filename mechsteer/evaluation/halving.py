"""Successive halving: the best of several candidates on dev items, the poor ones left early.

The items are split into parts, the same for everybody. All candidates answer the first part, the better half of them
the next one, and so on until one is left (Karnin, Koren & Somekh 2013). What is trained and what it is compared with
are chosen by the same procedure on the same items, so that no arm owes its score to a longer search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mechsteer.errors import DataError
from mechsteer.runtime.threads import each_of

PARTS = 4

Ask = Callable[[int, int, int], Sequence[float] | np.ndarray]
"""ask(candidate, start, end): its scores on the items from start to end"""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a candidate scored on the items that it was asked."""

    score: float
    """mean; nan for none"""
    n_items: int
    scores: tuple[float, ...] = ()
    """on each of them"""


def halve(
    n_candidates: int, n_items: int, ask: Ask, *, parts: int = PARTS, whole: bool = False
) -> tuple[int, list[Tried]]:
    """(number of the best candidate, what each scored). Of equal ones the first stays.

    A single one is taken unasked; with `whole` the last one answers all items, so that its score can be told.
    Raises DataError without candidates or items.
    """
    if n_candidates < 1 or n_items < 1:
        raise DataError(f"{n_candidates} candidates on {n_items} items", "give at least one of each")
    bounds = np.unique(np.linspace(0, n_items, min(parts, n_items) + 1).astype(int))
    scores: list[list[float]] = [[] for _ in range(n_candidates)]
    left = list(range(n_candidates))
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if len(left) == 1 and not whole:
            break
        answers = each_of(lambda i, start=start, end=end: ask(i, start, end), left)
        for i, values in zip(left, answers, strict=True):
            scores[i] += [float(value) for value in values]
        ranked = sorted(left, key=lambda i: -float(np.mean(scores[i])))  # stable: the first of equal ones
        left = ranked[: max(1, len(ranked) // 2)] if end < n_items else ranked[:1]
    tried = [Tried(score=float(np.mean(s)) if s else float("nan"), n_items=len(s), scores=tuple(s)) for s in scores]
    return left[0], tried
