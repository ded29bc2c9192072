"""Item (one problem), Task (items and how an answer is judged), Trace (one text written on an item)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mechsteer.errors import DataError
from mechsteer.prompts import Row, malformed


@dataclass(frozen=True, kw_only=True)
class Item:
    """One problem: the exact text to give the model, and the right answer where there is one.

    `group` is the problem that the item is about: items and traces of one group never fall into two splits.
    `meta` is whatever else is known, as plain data; `n_steps` there is the number of steps to the answer, `question` the
    problem without the words around it, `worked` the text after the prompt that a worked example has.
    """

    id: str
    prompt: str
    answer: str | None
    group: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One text written on an item.

    `prompt` is what the model was really given and `text` what came after it. `correct` is None where answers
    cannot be verified, `strict_correct` where the task has no strict form of an answer, `n_steps` (of the problem) and
    `style` where they are unknown. `source` says who wrote it, `sample` is its number among the texts of this source on
    this item.
    """

    item_id: str
    group: str
    prompt: str
    text: str
    correct: bool | None
    n_steps: int | None = None
    style: str | None = None
    source: str = ""
    sample: int = 0
    strict_correct: bool | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """(item_id, source, sample): what an interrupted run need not write again."""
        return self.item_id, self.source, self.sample


@dataclass(frozen=True, kw_only=True)
class Task:
    """Items of one kind. `verifier(answer, text)` judges a text, `styler(text)` names its style; None: no such thing.

    `strict_verifier` judges as well, and takes an answer in the form alone that the task prescribes.
    """

    name: str
    items: tuple[Item, ...]
    verifier: Callable[[str, str], bool] | None = None
    styler: Callable[[str], str] | None = None
    strict_verifier: Callable[[str, str], bool] | None = None

    @property
    def can_verify(self) -> bool:
        return self.verifier is not None

    @property
    def has_options(self) -> bool:
        """Every item has options to choose from in `meta["options"]`."""
        return all("options" in item.meta for item in self.items)

    def verify(self, item: Item, text: str) -> bool | None:
        """Whether `text`, written after the item's prompt, ends in the right answer; None where nobody can tell."""
        return _judged(self.verifier, item, text)

    def verify_strictly(self, item: Item, text: str) -> bool | None:
        """The same, of an answer in the prescribed form; None where there is no such form, or nobody can tell."""
        return _judged(self.strict_verifier, item, text)

    def trace(self, item: Item, text: str, *, prompt: str | None = None, source: str = "", sample: int = 0) -> Trace:
        """`text` as a judged Trace; `prompt` is what the model was given where that is not the item's prompt."""
        return Trace(
            item_id=item.id,
            group=item.group,
            prompt=item.prompt if prompt is None else prompt,
            text=text,
            correct=self.verify(item, text),
            n_steps=item.meta.get("n_steps"),
            style=self.styler(text) if self.styler else None,
            source=source,
            sample=sample,
            strict_correct=self.verify_strictly(item, text),
        )

    @cached_property
    def data_hash(self) -> str:
        """`items_hash` of its items: the provenance of what is made from them."""
        return items_hash(self.items)


def _judged(verifier: Callable[[str, str], bool] | None, item: Item, text: str) -> bool | None:
    return None if verifier is None or item.answer is None else verifier(item.answer, text)


def items_hash(items: Sequence[Item]) -> str:
    """SHA-256 of ids, prompts and answers in their order: 16 hex digits."""
    sha = hashlib.sha256()
    for item in items:
        sha.update(repr((item.id, item.prompt, item.answer)).encode("utf-8", "surrogatepass"))
    return sha.hexdigest()[:16]


def has_field(row: Row, *names: str) -> bool:
    """Whether the row is an object with one of the fields."""
    return isinstance(row.data, dict) and not row.data.keys().isdisjoint(names)


def text_field(row: Row, name: str, path: Path) -> str:
    """The field `name` of a row of the file `path`: a text that is not blank. Raises DataError."""
    value = row.data.get(name) if isinstance(row.data, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise malformed(path, row.line, f"{name!r} must be a text, got {value!r:.80}")
    return value


def text_id(text: str) -> str:
    """A short name for a text that is the same on every machine.

    >>> text_id("How many apples?")
    '754f5a5fb868'
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def with_unique_ids(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items; a second one of the same id gets "-2" and so on. Equal problems keep one group."""
    seen: dict[str, int] = {}
    taken = {item.id for item in items}
    unique = []
    for item in items:
        seen[item.id] = seen.get(item.id, 0) + 1
        if seen[item.id] > 1:
            new = f"{item.id}-{seen[item.id]}"
            if new in taken:
                raise DataError(
                    f"the ids {item.id!r} (twice) and {new!r} cannot be told apart", "give every row its own"
                )
            item = replace(item, id=new)
        unique.append(item)
    return tuple(unique)
