"""Prompts and contrastive pairs: aligned columns that drop repeats, sample, and split by group."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from mechsteer.errors import DataError
from mechsteer.prompts.files import field_of, read_files, text_of
from mechsteer.prompts.fitting import Fit, fitted, n_tokens
from mechsteer.prompts.splits import PARTS, Fractions, Part, split_of

_Rows = TypeVar("_Rows", bound="_Columns")


class _Columns:
    """What PromptSet and ContrastivePairs share: aligned tuples, one entry per row."""

    groups: tuple[str, ...]

    def _check(self, texts: Sequence[str]) -> None:
        sizes = {f.name: len(v) for f in fields(self) if (v := getattr(self, f.name)) is not None}  # pyright: ignore[reportArgumentType]
        if len(set(sizes.values())) != 1:
            raise DataError(f"columns of different lengths: {sizes}", "give one entry per row in each")
        if not next(iter(sizes.values())):
            raise DataError("there are no rows", "give at least one")
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text:
                raise DataError(f"text {i % len(self.groups)} is {text!r}", "every row needs a text that is not empty")

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def data_hash(self) -> str:
        """Hash (16 hex digits) of all rows, for provenance."""
        return hashlib.sha256(json.dumps(list(self._rows())).encode()).hexdigest()[:16]

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        columns = [getattr(self, f.name) for f in fields(self)]  # pyright: ignore[reportArgumentType]
        return zip(*(c if c is not None else [None] * len(self) for c in columns), strict=True)

    def take(self: _Rows, index: Iterable[int]) -> _Rows:
        """These rows, in this order; raises DataError for none."""
        index = list(index)
        if not index:
            raise DataError("no rows are left", "loosen the selection, or give more data")
        columns = {f.name: getattr(self, f.name) for f in fields(self)}  # pyright: ignore[reportArgumentType]
        picked = {k: None if v is None else tuple(v[i] for i in index) for k, v in columns.items()}
        return replace(self, **picked)  # pyright: ignore[reportArgumentType,reportReturnType]

    def dedupe(self: _Rows) -> _Rows:
        """Without rows whose texts came before, whatever their label or group."""
        first: dict[object, int] = {}
        for i, text in enumerate(self._texts()):
            first.setdefault(text, i)
        return self.take(first.values())

    def _texts(self) -> Iterable[object]:
        raise NotImplementedError

    def sample(self: _Rows, n: int, seed: int = 0) -> _Rows:
        """`n` rows drawn without replacement, in their old order; raises DataError if there are fewer."""
        if not 1 <= n <= len(self):
            raise DataError(f"cannot sample {n} of {len(self)} rows", "ask for at least 1, at most all")
        return self.take(sorted(np.random.default_rng(seed).choice(len(self), n, replace=False).tolist()))

    def split(self: _Rows, fractions: Fractions = (0.7, 0.15, 0.15), seed: int = 0) -> dict[Part, _Rows]:
        """Part -> its rows, by group (see `split_of`); a part that got no group is absent."""
        parts = [split_of(group, seed, fractions) for group in self.groups]
        return {p: self.take(i for i, q in enumerate(parts) if q == p) for p in PARTS if p in parts}


@dataclass(frozen=True)
class PromptSet(_Columns):
    """Texts with group ids (default: each its own group) and, maybe, labels.

    >>> prompts = PromptSet(["2 + 2 =", "3 + 3 ="], labels=[4, 6])
    >>> len(prompts), prompts[1], prompts.groups
    (2, '3 + 3 =', ('0', '1'))
    """

    texts: tuple[str, ...]
    groups: tuple[str, ...] = ()
    labels: tuple[Any, ...] | None = None

    def __init__(
        self, texts: Sequence[str], groups: Sequence[object] = (), labels: Sequence[Any] | None = None
    ) -> None:
        if isinstance(texts, str):
            raise DataError("texts is one string", "pass a list of texts")
        _set(self, texts=tuple(texts), groups=_groups(groups, len(texts)), labels=labels and tuple(labels))
        self._check(self.texts)

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str] | Any,
        text: str = "text",
        *,
        group: str | None = None,
        label: str | None = None,
    ) -> PromptSet:
        """From a file, a folder or a dataset (see `read_rows`); the arguments name the fields, which are the columns
        of a dataset; "conversations.0.value" is a field within a field. Rows may also be plain strings.

        Raises DataError naming file and line.
        """
        rows = [(file, row) for file, some in read_files(path) for row in some]
        if all(isinstance(row.data, str) for _, row in rows):
            return cls([text_of(row.data, file, row.line, "the row") for file, row in rows])
        texts = [text_of(field_of(row, text, file), file, row.line, text) for file, row in rows]
        groups = () if group is None else [field_of(row, group, file) for file, row in rows]
        return cls(texts, groups, None if label is None else [field_of(row, label, file) for file, row in rows])

    def __getitem__(self, i: int) -> str:
        return self.texts[i]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def fit(self, model: Any, truncate: Fit | None = None, *, room: int = 0) -> PromptSet:
        """With every text in the model's context, `room` tokens left behind it.

        What is longer is left out ("drop"), keeps its beginning ("right") or its end ("left").
        Raises DataError where texts are too long and `truncate` is None, naming how many, and where none is left.
        """
        kept = fitted(self.texts, model, truncate, room=room)
        index = [i for i, text in enumerate(kept) if text is not None]
        return replace(self.take(index), texts=tuple(kept[i] or "" for i in index))

    def of_length(self, model: Any, least: int = 1, most: int | None = None) -> PromptSet:
        """Those of at least `least` and at most `most` tokens, a BOS counted. `model`: a model, or a tokenizer.

        Raises DataError for a range without numbers, and where no text is of such a length.
        """
        if least < 0 or (most is not None and most < max(1, least)):
            raise DataError(f"from {least} to {most} tokens", "give a least and a most, the first not above the second")
        lengths = [n_tokens(text, model) for text in self.texts]
        index = [i for i, n in enumerate(lengths) if n >= least and (most is None or n <= most)]
        if not index:
            raise DataError(
                f"no text has {least} to {'any number of' if most is None else most} tokens; "
                f"they have {min(lengths)} to {max(lengths)}",
                "give another range, or more data",
            )
        return self.take(index)

    def _texts(self) -> Iterable[object]:
        return self.texts


@dataclass(frozen=True)
class ContrastivePairs(_Columns):
    """Pairs of texts that differ in one property, with group ids (default: each pair its own group).

    >>> pairs = ContrastivePairs(["I am honest."], ["I am lying."])
    >>> pairs[0]
    ('I am honest.', 'I am lying.')
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    groups: tuple[str, ...] = ()

    def __init__(self, positive: Sequence[str], negative: Sequence[str], groups: Sequence[object] = ()) -> None:
        if isinstance(positive, str) or isinstance(negative, str):
            raise DataError("a side is one string", "pass lists of texts")
        _set(self, positive=tuple(positive), negative=tuple(negative), groups=_groups(groups, len(positive)))
        self._check([*self.positive, *self.negative])

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str] | Any,
        positive: str = "positive",
        negative: str = "negative",
        *,
        group: str | None = None,
    ) -> ContrastivePairs:
        """From a file, a folder or a dataset (see `read_rows`); the arguments name the fields.

        Raises DataError naming file and line.
        """
        rows = [(file, row) for file, some in read_files(path) for row in some]
        sides = [
            [text_of(field_of(row, name, file), file, row.line, name) for file, row in rows]
            for name in (positive, negative)
        ]
        return cls(*sides, groups=() if group is None else [field_of(row, group, file) for file, row in rows])

    def __getitem__(self, i: int) -> tuple[str, str]:
        return self.positive[i], self.negative[i]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self.positive, self.negative, strict=True)

    def _texts(self) -> Iterable[object]:
        return zip(self.positive, self.negative, strict=True)


def _set(instance: object, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def _groups(groups: Sequence[object], n: int) -> tuple[str, ...]:
    return tuple(str(g) for g in groups) if len(groups) else tuple(str(i) for i in range(n))
