"""The run log: what was appended is read, whatever happens to the writer or the disk."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import record_toys
from record_toys import one_of_each, trace

from mechsteer.errors import FileFormatError, StorageError
from mechsteer.records import KINDS, RunLog, id_of
from mechsteer.records.log import line_of

TESTS = Path(__file__).parents[1]


def test_every_kind_comes_back_equal(tmp_path):
    log = RunLog(tmp_path / "deep" / "records.jsonl")
    records = [*one_of_each(), trace(1, text="NUL \x00, half \ud83d"), trace(2, text="")]
    assert {type(record) for record in records} == set(KINDS.values())
    log.append(records[:3])
    log.append([])
    log.append(records[3:])
    content = log.read()
    assert list(content.records) == records
    assert content.torn == ""
    lines = log.path.read_bytes().split(b"\n")
    assert len(lines) == len(records) + 1  # whatever line ends a text holds
    assert all(byte < 128 for line in lines for byte in line)
    told = json.loads(lines[0])
    assert (told["schema"], told["kind"], told["digest"]) == (1, "configurations", id_of(records[0]))


def test_ids_are_of_the_content_alone():
    ids = {id_of(record) for record in [*one_of_each(), trace(1), trace(0, text="other")]}
    assert len(ids) == len(one_of_each()) + 2
    assert id_of(trace(0)) == id_of(trace(0))


def test_a_last_line_torn_anywhere_is_told_and_cut_off_by_the_next_writer(tmp_path):
    log, first, second, third = RunLog(tmp_path / "records.jsonl"), trace(0), trace(1, text="b"), trace(2, text="c")
    whole, line = line_of(first), line_of(second)
    for size in range(1, len(line)):
        log.path.write_bytes(whole + line[:size])
        content = log.read()
        is_whole = size == len(line) - 1  # all but its line end
        assert list(content.records) == [first, second] if is_whole else [first]
        assert bool(content.torn) != is_whole
        if not is_whole:
            assert content.torn.startswith(f"{log.path}, line 2: {size} bytes")
        log.append([third])
        assert list(log.read().records) == [first, *([second] if is_whole else []), third]
        assert log.read().torn == ""


def test_a_torn_line_longer_than_what_is_read_at_once(tmp_path):
    log = RunLog(tmp_path / "records.jsonl")
    log.append([trace(0)])
    log.path.write_bytes(log.path.read_bytes() + line_of(trace(1, text="x" * 200_000))[:-5])
    log.append([trace(2)])
    assert list(log.read().records) == [trace(0), trace(2)]
    log.path.write_bytes(line_of(trace(1))[:-5])  # nothing whole at all
    log.append([trace(2)])
    assert list(log.read().records) == [trace(2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line.replace(b'"row": 1', b'"row": 3'), r"records\.jsonl, line 2 is damaged"),
        (lambda line: line[:-3], r"records\.jsonl, line 2 is damaged"),
        (lambda line: b"[1]", r"records\.jsonl, line 2 is damaged"),
        (lambda line: b"\xff\xfe", r"records\.jsonl, line 2 is damaged"),
    ],
)
def test_damage_is_named_by_its_line(change, message, tmp_path):
    log = RunLog(tmp_path / "records.jsonl")
    log.append([trace(0), trace(1), trace(2)])
    lines = log.path.read_bytes().split(b"\n")
    lines[1] = change(lines[1])
    log.path.write_bytes(b"\n".join(lines))
    with pytest.raises(FileFormatError, match=message):
        log.read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, r"line 1 is of schema 2.*up to 1(?s:.*)upgrade"),
        ({"kind": "dreams"}, r"line 1 is of schema 1, kind 'dreams'"),
        ({"row": "3"}, r"line 1: these are not the data of a TraceRecord"),
        ({"more": 1}, r"line 1: these are not the data of a TraceRecord"),
    ],
)
def test_other_versions_are_refused_by_name(change, message, tmp_path):
    from mechsteer.files import digest_of

    log = RunLog(tmp_path / "records.jsonl")
    log.append([trace(0)])
    told = {key: value for key, value in json.loads(log.path.read_bytes()).items() if key != "digest"} | change
    log.path.write_text(json.dumps({"digest": digest_of(told), **told}) + "\n")
    with pytest.raises(FileFormatError, match=message):
        log.read()


@contextlib.contextmanager
def disk_of(n_bytes):
    """No file may grow beyond `n_bytes`: what fits is written, then the system refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path):
    log = RunLog(tmp_path / "records.jsonl")
    log.append([trace(0)])
    before = log.path.read_bytes()
    with disk_of(len(before) + 100), pytest.raises(StorageError, match=r"cannot append to .*records\.jsonl"):
        log.append([trace(1), trace(2)])
    assert log.path.read_bytes() == before
    log.append([trace(1), trace(2)])
    assert len(log.read().records) == 3


def test_what_cannot_be_opened_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot append to"):
        RunLog(tmp_path / "file" / "records.jsonl").append([trace(0)])
    with pytest.raises(StorageError, match="cannot read"):
        RunLog(tmp_path / "none.jsonl").read()


def test_writers_at_once_do_not_mix(tmp_path):
    log = RunLog(tmp_path / "records.jsonl")

    def write(name):
        for i in range(0, 90, 3):
            log.append([trace(i + j, text=f"{name} {'x' * 3000}", run_id=name) for j in range(3)])

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = log.read()
    assert content.torn == ""
    rows = [(record.run_id, record.row) for record in content.records]
    assert len(rows) == 270
    for start in range(0, 270, 3):  # what was appended together stands together
        (name, row), *others = rows[start : start + 3]
        assert others == [(name, row + 1), (name, row + 2)]
    for name in "abc":
        assert [row for run_id, row in rows if run_id == name] == list(range(90))


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from record_toys import trace
from mechsteer.records import RunLog
log, row = RunLog(sys.argv[2]), 0
while True:
    log.append([trace(row), trace(row + 1, text="y" * 100_000)])
    row += 2
"""


def test_a_killed_writer_loses_nothing_whole(tmp_path):
    log = RunLog(tmp_path / "records.jsonl")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(TESTS), str(log.path)])
    try:
        deadline = time.monotonic() + 60
        while (not log.path.exists() or log.path.stat().st_size < 500_000) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    n = len(log.read().records)
    assert n >= 4
    assert [record.row for record in log.read().records] == list(range(n))
    log.append([record_toys.run()])  # the lock of the dead holds nobody
    assert len(log.read().records) == n + 1
    assert log.read().torn == ""
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]
