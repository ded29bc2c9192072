"""What must hold of the items of an experiment before anything runs: no overlap of splits, an answer for each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from mechsteer.errors import DataError
from mechsteer.tasks.base import Item, Task, text_id


def require_disjoint(splits: Mapping[str, Task]) -> None:
    """Raise DataError where two splits share a group or a prompt (white space and case aside), naming the first item."""
    known = {name: _seen(task.items) for name, task in splits.items()}
    for (one, theirs), (other, ours) in itertools.combinations(known.items(), 2):
        for what, a, b in zip(("group", "prompt"), theirs, ours, strict=True):
            if shared := sorted(a.keys() & b.keys()):
                first = shared[0]
                raise DataError(
                    f"{one} and {other} overlap: {len(shared)} items share a {what}, the first are {a[first]!r} in the "
                    f"one and {b[first]!r} in the other",
                    'leave them out of one of the two; rows of one problem get one "group"',
                )


def require_answers(items: Sequence[Item], name: str) -> None:
    """Raise DataError where items have no answer, naming the first."""
    without = [item.id for item in items if item.answer is None]
    if without:
        raise DataError(
            f"{len(without)} of {len(items)} items of {name!r} have no answer, the first is {without[0]!r}",
            "an answer cannot be verified without one: give it in Item.answer, or leave these items out",
        )


def _seen(items: Sequence[Item]) -> tuple[dict[str, str], dict[str, str]]:
    """(group -> the first id of it, hash of a prompt -> the first id of it)."""
    groups, prompts = {}, {}
    for item in items:
        groups.setdefault(item.group, item.id)
        prompts.setdefault(text_id(" ".join(item.prompt.split()).casefold()), item.id)
    return groups, prompts
