"""Reading the rows of a data file; what is malformed is named by file and line."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, NamedTuple

from mechsteer.errors import DataError
from mechsteer.prompts.tables import (
    IN_MEMORY,
    SUFFIXES,
    files_of,
    is_dataset,
    is_dataset_folder,
    rows_in_memory,
    table_rows,
)


class Row(NamedTuple):
    """One row of a data file and the line it begins at, of a table its number (1 is the first)."""

    line: int
    data: Any


def read_rows(path: str | os.PathLike[str] | Any) -> list[Row]:
    """The rows of a .jsonl, .json (a list), .csv (with a header) or .txt file (one text per line; blank lines skipped),
    of a Parquet or Arrow file, a folder of them (`save_to_disk`), or a `datasets.Dataset`.

    Raises DataError naming the file, and the line where a row is malformed; also for an empty file.
    """
    return [row for _, rows in read_files(path) for row in rows]


def read_files(path: str | os.PathLike[str] | Any) -> list[tuple[Path, list[Row]]]:
    """The rows by the file that holds them (a folder of Arrow files has several): see `read_rows`."""
    if is_dataset(path):
        return [_some(Path(IN_MEMORY), _numbered(rows_in_memory(path)))]
    path = Path(path)
    if is_dataset_folder(path):
        return [_some(file, _numbered(table_rows(file))) for file in files_of(path)]
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return [_some(path, _numbered(table_rows(path)))]
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = sorted([*_READERS, *SUFFIXES])
        raise DataError(
            f"{path} is a folder without a dataset"
            if path.is_dir()
            else f"{path} is of an unknown kind {path.suffix!r}",
            f"known are {known}, and folders of save_to_disk",
        )
    return [_some(path, reader(read_text(path), path))]


def _some(path: Path, rows: Iterable[Row]) -> tuple[Path, list[Row]]:
    found = list(rows)
    if not found:
        raise DataError(f"{path} holds no rows", "give a file with at least one")
    return path, found


def _numbered(rows: Iterable[Any]) -> Iterator[Row]:
    return (Row(number, row) for number, row in enumerate(rows, 1))


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


def malformed(path: str | os.PathLike[str], line: int, why: str, hint: str = "correct or remove this row") -> DataError:
    """The error for one bad row; the caller raises it."""
    is_table = str(path) == IN_MEMORY or Path(path).suffix in SUFFIXES
    return DataError(f"{path}, {'row' if is_table else 'line'} {line}: {why}", hint)


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


def field_of(row: Row, name: str, path: str | os.PathLike[str]) -> Any:
    """The field `name` of a row of the file `path`, or the one that a path with dots leads to ("messages.0.content").

    Raises DataError naming file and line where there is none.
    """
    if not isinstance(row.data, Mapping):
        raise malformed(path, row.line, f"a row with fields was expected, this is a {type(row.data).__name__}")
    if name in row.data:
        return row.data[name]
    value: Any = row.data
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            why = f"there is no field {name!r}; there are {list(row.data)}"
            raise malformed(path, row.line, why, "name one that is there, or correct this row")
    return value


def text_of(value: Any, path: str | os.PathLike[str], line: int, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise malformed(path, line, f"{name} is {value!r}, a text was expected")
    return value
