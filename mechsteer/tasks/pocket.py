"""The generated word problems of `mechsteer.pocket` as a task."""

from __future__ import annotations

from mechsteer import pocket
from mechsteer.pocket.problems import Split
from mechsteer.tasks.base import Item, Task


def pocket_task(n: int, *, seed: int = 0, split: Split = "test") -> Task:
    """`n` problems of one split. Their `meta` has question, n_steps and operations; traces get a style.

    Raises ConfigError (unknown split) and DataError (the split has no `n` different problems).
    """
    items = tuple(
        Item(
            id=p.id,
            prompt=p.prompt,
            answer=str(p.answer),
            group=p.id,
            meta={"question": p.question, "n_steps": p.n_steps, "operations": list(p.operations)},
        )
        for p in pocket.problems(n, seed=seed, split=split)
    )
    return Task(name="pocket", items=items, verifier=is_correct, styler=pocket.style)


def is_correct(answer: str, text: str) -> bool:
    """Whether the last "The answer is N." of `text` gives `answer`."""
    return str(pocket.extract_answer(text)) == answer
