"""Traces on disk: JSONL, one row per trace, in ASCII (everything else is escaped), readable while it grows.

A writer that was killed may leave a row without its end; readers pass over it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from mechsteer.errors import DataError
from mechsteer.files import write_atomically
from mechsteer.prompts import malformed, why_not_json
from mechsteer.tasks.base import Trace

_TYPES = {
    **{"item_id": str, "group": str, "prompt": str, "text": str, "correct": bool | None},
    **{"n_steps": int | None, "style": str | None, "source": str, "sample": int, "strict_correct": bool | None},
}
_LATER = {"strict_correct"}  # that rows of earlier versions lack


def _line(trace: Trace) -> bytes:
    return json.dumps(dataclasses.asdict(trace)).encode("ascii") + b"\n"


def write_traces(path: str | Path, traces: Iterable[Trace]) -> Path:
    """Write `traces` as the whole file: a reader sees the old one or the new one. Raises StorageError."""
    return write_atomically(path, b"".join(_line(trace) for trace in traces))


def read_traces(path: str | Path) -> list[Trace]:
    """The traces of a file, in its order; a last row that was cut off is passed over.

    Raises DataError: no such file, or a row that is not a trace (file and line are named).
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", "give a file of traces") from error
    if lines[-1] and not _is_whole(lines[-1]):
        lines.pop()
    return [_trace(line, path, i) for i, line in enumerate(lines, 1) if line.strip()]


def _trace(line: bytes, path: Path, number: int) -> Trace:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise malformed(path, number, why_not_json(error)) from error
    if not isinstance(row, dict) or row.keys() | _LATER != _TYPES.keys():
        raise malformed(path, number, f"a trace has the fields {list(_TYPES)}")
    for name, kind in _TYPES.items():
        if name in row and not isinstance(row[name], kind):
            raise malformed(path, number, f"{name!r} is {row[name]!r:.80}, expected {_TYPES[name]}")
    return Trace(**row)


def _is_whole(line: bytes) -> bool:
    """Whether a line without its line end is a row all the same: no beginning of a JSON object is one itself."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
