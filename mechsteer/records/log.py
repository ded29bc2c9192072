"""The run log: JSONL, one record per line, to which several processes may append at once.

A line is {"digest": ..., "schema": 1, "kind": ..., and the fields of the record}, in ASCII; the digest is the record's id
and tells damage. A writer holds the file's lock while it appends. What one that was killed left without its end is cut
off by the next writer, and passed over by readers; where the disk refuses, the file is as it was before.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.errors import FileFormatError, StorageError
from mechsteer.files import digest_of
from mechsteer.files.records import DIGEST
from mechsteer.records.kinds import KINDS, SCHEMA, Record, content_of, record_of

if sys.platform != "win32":
    import fcntl

LOG = "records.jsonl"
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would write other line ends
_BLOCK = 2**16  # bytes read at once while the last line is looked for


@dataclass(frozen=True, kw_only=True)
class LogContent:
    """What a log holds."""

    records: tuple[Record, ...]
    torn: str = ""
    """of a last record that its writer did not finish: where it stands; empty where there is none"""


class RunLog:
    """A log on disk; there need be no file yet."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, records: Iterable[Record]) -> None:
        """Put records behind what is there, all or none, and have them on the disk.

        Waits for other writers. Raises StorageError where the disk refuses; the file is then as it was.
        """
        data = b"".join(map(line_of, records))
        if not data:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | _BINARY, 0o644)
            try:
                _lock(file)
                end = _end_of_whole(file)
                try:
                    _write(file, data, end)
                    os.fsync(file)
                except OSError:
                    os.ftruncate(file, end)
                    raise
            finally:
                os.close(file)  # which unlocks it
        except OSError as error:
            raise StorageError(
                f"cannot append to {self.path}: {error.strerror or error}",
                "free some space, or choose another folder; what the log held is whole",
            ) from error

    def read(self) -> LogContent:
        """All records, in the order they were appended.

        Raises FileFormatError naming the line that is damaged or of a later version, StorageError where there is no
        such file or it cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise StorageError(
                f"cannot read {self.path}: {error.strerror or error}", "give the path of a run log"
            ) from error
        lines = data.split(b"\n")
        last = lines.pop()
        torn = ""
        if last and _is_whole(last):
            lines.append(last)
        elif last:
            torn = f"{self.path}, line {len(lines) + 1}: {len(last)} bytes of a record that was not finished"
        records = (self._record(line, number) for number, line in enumerate(lines, 1) if line.strip())
        return LogContent(records=tuple(records), torn=torn)

    def _record(self, line: bytes, number: int) -> Record:
        where = f"{self.path}, line {number}"
        content = _content(line)
        if content is None:
            raise FileFormatError(f"{where} is damaged", "remove this line: every other one is checked by itself")
        schema = content.get("schema")
        if not isinstance(schema, int) or schema > SCHEMA or content.get("kind") not in KINDS:
            raise FileFormatError(
                f"{where} is of schema {schema!r}, kind {content.get('kind')!r}; this version reads schemas up to "
                f"{SCHEMA} and the kinds {list(KINDS)}",
                "it was written by a later mechsteer: upgrade",
            )
        try:
            return record_of(content)
        except FileFormatError as error:
            raise FileFormatError(f"{where}: {error.message}", error.hint) from error


def line_of(record: Record) -> bytes:
    """A record as it stands in a log."""
    content = content_of(record)
    return json.dumps({DIGEST: digest_of(content), **content}).encode("ascii") + b"\n"


def _content(line: bytes) -> dict[str, Any] | None:
    """What a line says, without its digest; None for one that is damaged."""
    try:
        loaded = json.loads(line)
        if not isinstance(loaded, dict):
            return None
        digest = loaded.pop(DIGEST, None)
        return loaded if digest == digest_of(loaded) else None
    except (ValueError, RecursionError):
        return None


def _is_whole(line: bytes) -> bool:
    return _content(line) is not None


def _end_of_whole(file: int) -> int:
    """Where the next record goes; what a killed writer left there without its end is cut off."""
    size = os.fstat(file).st_size
    begin, tail = size, b""  # of the last line
    while begin and b"\n" not in tail:
        begin = max(0, begin - _BLOCK)
        os.lseek(file, begin, os.SEEK_SET)
        tail = os.read(file, size - begin)
    tail = tail.rpartition(b"\n")[2]
    if not tail:
        return size
    if _is_whole(tail):  # all but its line end
        _write(file, b"\n", size)
        return size + 1
    os.ftruncate(file, size - len(tail))
    return size - len(tail)


def _write(file: int, data: bytes, at: int) -> None:
    os.lseek(file, at, os.SEEK_SET)
    while data:
        data = data[os.write(file, data) :]


def _lock(file: int) -> None:
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX)
