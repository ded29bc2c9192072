"""The generated word problems of `mechsteer.pocket` as a task."""

from __future__ import annotations

import random

from mechsteer import pocket
from mechsteer.pocket.problems import Split
from mechsteer.tasks.base import Item, Task
from mechsteer.tasks.selecting import Which


def pocket_task(n: int, *, seed: int = 0, split: Split = "test", which: Which | None = None) -> Task:
    """`n` problems of one split, of those that `which` names. Their `meta` has question, n_steps, operations and a
    worked example; traces get a style.

    Raises ConfigError (unknown split) and DataError (the split has no `n` different problems).
    """
    which = which or Which()
    items = tuple(
        _item(p)
        for p in pocket.problems(
            n, seed=seed, split=split, accept=None if which.is_all else lambda p: which.takes(p.n_steps, p.operations)
        )
    )
    return Task(name="pocket", items=items, verifier=is_correct, styler=pocket.style)


def _item(p: pocket.Problem) -> Item:
    example = pocket.traces(p, random.Random(f"worked/{p.id}"), style="careful")
    known = {"question": p.question, "n_steps": p.n_steps, "operations": list(p.operations), "worked": example}
    return Item(id=p.id, prompt=p.prompt, answer=str(p.answer), group=p.id, meta=known)


def is_correct(answer: str, text: str) -> bool:
    """Whether the last "The answer is N." of `text` gives `answer`."""
    return str(pocket.extract_answer(text)) == answer
