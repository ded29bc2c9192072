"""Traces on disk: nothing is lost or changed, whenever the writer dies."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from mechsteer.errors import DataError, StorageError
from mechsteer.tasks import Trace, read_traces, write_traces
from mechsteer.tasks.traces import _TYPES

FIRST = Trace(
    item_id="p1", group="p1", prompt="Q:\nA:", text="naïve \u2028 \ud800 </script>\r\n", correct=True, n_steps=2
)
SECOND = Trace(item_id="p2", group="p2", prompt="Q", text="", correct=None, style="hasty", source="base", sample=3)


def test_round_trip_one_ascii_row_each(tmp_path: Path) -> None:
    path = write_traces(tmp_path / "new folder" / "traces.jsonl", [FIRST, SECOND])
    assert read_traces(path) == [FIRST, SECOND]
    data = path.read_bytes()
    assert data.isascii()
    assert data.count(b"\n") == len(data.splitlines()) == 2


def test_every_cut_of_a_dying_writer_leaves_the_rows_before(tmp_path: Path) -> None:
    path = write_traces(tmp_path / "traces.jsonl", [FIRST, SECOND])
    data = path.read_bytes()
    one = data.index(b"\n") + 1
    for cut in range(one, len(data)):
        path.write_bytes(data[:cut])
        # all of the second row but its line end: the row is whole
        kept = [FIRST, SECOND] if cut == len(data) - 1 else [FIRST]
        assert read_traces(path) == kept


def test_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_traces(tmp_path / "traces.jsonl", [FIRST])
    before = path.read_bytes()

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        write_traces(path, [SECOND])
    assert caught.value.hint
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (b'"sample": "3"', "line 2: 'sample' is '3'"),
        (b'"sample": 3, "extra": 1', "line 2: a trace has the fields"),
        (b'"sample": ', "line 2: not JSON"),
        (b'"sample": ' + b"[" * 100_000, "line 2: .*nested too deeply"),
        (b'"sample": ' + b"9" * 5000, "line 2: .*4300 digits"),
        (b'"sample": "\xe9"', "line 2: .*'utf-8' codec"),
    ],
    ids=["type", "field", "cut off", "deep nesting", "huge integer", "not UTF-8"],
)
def test_malformed_rows_are_named(tmp_path: Path, change: bytes, message: str) -> None:
    path = write_traces(tmp_path / "traces.jsonl", [FIRST, SECOND])
    path.write_bytes(path.read_bytes().replace(b'"sample": 3', change))
    with pytest.raises(DataError, match=message):
        read_traces(path)


def test_a_last_row_nested_too_deeply_is_one_that_was_cut_off(tmp_path: Path) -> None:
    path = write_traces(tmp_path / "traces.jsonl", [FIRST])
    with path.open("ab") as file:
        file.write(b"[" * 100_000)
    assert read_traces(path) == [FIRST]


def test_rows_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = write_traces(tmp_path / "traces.jsonl", [FIRST])
    path.write_bytes(path.read_bytes().replace(b', "strict_correct": null', b""))
    assert b"strict" not in path.read_bytes()
    assert read_traces(path) == [FIRST]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_traces(tmp_path / "none.jsonl")


def test_fields_and_their_types_are_all_checked() -> None:
    assert list(_TYPES) == [f.name for f in dataclasses.fields(Trace)]
