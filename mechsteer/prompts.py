"""Prompts and contrastive pairs: reading them, dropping repeats, sampling, and splitting by group.

Everything that is split is split by group (a problem, a topic), never by row, and by a hash of the group's
name, so that a group's part does not depend on which others there are, on order, or on the machine.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from mechsteer.errors import DataError

Part = Literal["train", "dev", "test"]
Fractions = tuple[float, float, float]
_PARTS: tuple[Part, ...] = ("train", "dev", "test")
_Rows = TypeVar("_Rows", bound="_Columns")


class Row(NamedTuple):
    """One row of a data file and the line it begins at (1 is the first)."""

    line: int
    data: Any


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a .jsonl, .json (a list), .csv (with a header) or .txt file (one text per line; blank lines skipped).

    Raises DataError naming the file, and the line where a row is malformed; also for an empty file.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is of an unknown kind {path.suffix!r}", f"known are {sorted(_READERS)}")
    rows = list(reader(read_text(path), path))
    if not rows:
        raise DataError(f"{path} holds no rows", "give a file with at least one")
    return rows


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises DataError naming the file, and the line that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "give a file that is there") from error
    except UnicodeDecodeError as error:
        before = error.object[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # as they are read
        line, why = 1 + before.count(b"\n"), f"not UTF-8 text: {error.reason}"
        raise DataError(f"{path}, line {line}: {why}", "save the file as UTF-8") from error


def why_not_json(error: ValueError | RecursionError) -> str:
    """What is wrong with a text, by what `json` raised: not JSON, or JSON that Python will not hold."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        return "half of a surrogate pair (\\ud800 to \\udfff), which is no character"
    return f"not JSON: {error.msg}" if isinstance(error, JSONDecodeError) else f"cannot be read: {error}"


def malformed(path: str | os.PathLike[str], line: int, why: str) -> DataError:
    """The error for one bad row; the caller raises it."""
    return DataError(f"{path}, line {line}: {why}", "correct or remove this row")


# Lines end at "\n" alone: splitlines would also break at U+2028 and others that a text may hold.
def _read_lines(text: str, _path: Path) -> Iterator[Row]:
    for line, row in enumerate(text.split("\n"), 1):
        if row.strip():
            yield Row(line, row)


def _read_jsonl(text: str, path: Path) -> Iterator[Row]:
    for line, row in enumerate(text.split("\n"), 1):
        if row.strip():
            try:
                yield Row(line, _unicode(json.loads(row), row))
            except (ValueError, RecursionError) as error:
                raise malformed(path, line, why_not_json(error)) from error


def _read_json(text: str, path: Path) -> Iterator[Row]:
    """One item of the outer list at a time, so that each knows its line."""
    decoder, at, line, counted = JSONDecoder(), _skip(text, 0), 1, 0
    if text[at : at + 1] != "[":
        raise malformed(path, 1 + text.count("\n", 0, at), "a .json file holds one list of rows")
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            item, end = decoder.raw_decode(text, at)
            _unicode(item, text[at:end])
        except (ValueError, RecursionError) as error:
            raise malformed(path, getattr(error, "lineno", line), why_not_json(error)) from error
        yield Row(line, item)
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise malformed(path, 1 + text.count("\n", 0, at), "not JSON: expected ',' or ']'")


def _unicode(value: Any, source: str) -> Any:
    """`value`, unless it holds half of a surrogate pair, which no tokenizer takes: UnicodeEncodeError."""
    if "\\ud" in source.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _read_csv(text: str, path: Path) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    begins = 1
    try:
        for cells in reader:
            if header is None:
                header = cells
            elif cells:
                if len(cells) != len(header):
                    raise malformed(path, begins, f"{len(cells)} cells under a header of {len(header)}")
                yield Row(begins, dict(zip(header, cells, strict=True)))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise malformed(path, begins, f"not CSV: {error}") from error


_READERS: dict[str, Callable[[str, Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".txt": _read_lines,
}


def split_of(group: object, seed: int = 0, fractions: Fractions = (0.7, 0.15, 0.15)) -> Part:
    """The part of a group: by the hash of its name, in (train, dev, test) fractions that sum to 1.

    >>> [split_of(f"p{i}") for i in (1, 8)]
    ['train', 'test']
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise DataError(f"fractions {fractions} do not sum to 1", "give shares of train, dev and test")
    u = uniform_hash(group, seed)
    return "train" if u < fractions[0] else "dev" if u < fractions[0] + fractions[1] else "test"


def uniform_hash(group: object, seed: int = 0) -> float:
    """A number in [0, 1) that depends on the group's name and the seed alone.

    >>> uniform_hash("p1") == uniform_hash("p1"), uniform_hash("p1") == uniform_hash("p1", seed=1)
    (True, False)
    """
    digest = hashlib.sha256(f"{seed}\x1f{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


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
        return {p: self.take(i for i, q in enumerate(parts) if q == p) for p in _PARTS if p in parts}


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
        path: str | os.PathLike[str],
        text: str = "text",
        *,
        group: str | None = None,
        label: str | None = None,
    ) -> PromptSet:
        """From a file (see `read_rows`); the arguments name the fields. Rows may also be plain strings.

        Raises DataError naming file and line.
        """
        rows = read_rows(path)
        if all(isinstance(row.data, str) for row in rows):
            return cls([_text(row.data, path, row.line, "the row") for row in rows])
        texts = [_text(_field(row, text, path), path, row.line, text) for row in rows]
        groups = () if group is None else [_field(row, group, path) for row in rows]
        return cls(texts, groups, None if label is None else [_field(row, label, path) for row in rows])

    def __getitem__(self, i: int) -> str:
        return self.texts[i]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

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
        path: str | os.PathLike[str],
        positive: str = "positive",
        negative: str = "negative",
        *,
        group: str | None = None,
    ) -> ContrastivePairs:
        """From a file (see `read_rows`); the arguments name the fields. Raises DataError naming file and line."""
        rows = read_rows(path)
        sides = [
            [_text(_field(row, name, path), path, row.line, name) for row in rows] for name in (positive, negative)
        ]
        return cls(*sides, groups=() if group is None else [_field(row, group, path) for row in rows])

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


def _field(row: Row, name: str, path: str | os.PathLike[str]) -> Any:
    if not isinstance(row.data, Mapping):
        raise malformed(path, row.line, f"a row with fields was expected, this is a {type(row.data).__name__}")
    if name not in row.data:
        raise malformed(path, row.line, f"there is no field {name!r}; there are {list(row.data)}")
    return row.data[name]


def _text(value: Any, path: str | os.PathLike[str], line: int, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise malformed(path, line, f"{name} is {value!r}, a text was expected")
    return value
