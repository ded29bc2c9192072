"""Files appear whole or not at all."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mechsteer.errors import StorageError
from mechsteer.files import atomic_path, write_atomically


def test_whole_or_old(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "deep" / "a.txt", "ü\n")
    assert path.read_bytes() == b"\xc3\xbc\n"

    def interrupted():
        with atomic_path(path) as part:
            part.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert path.read_text(encoding="utf-8") == "ü\n"

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left(?s:.*)hint: free some space"):
        write_atomically(path, b"new")
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_that_cannot_be(tmp_path):
    Path(tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_atomically(tmp_path / "file" / "x", b"")


@pytest.mark.parametrize("one_writer", [False, True])
def test_a_killed_writer_leaves_the_old_file(tmp_path, one_writer):
    path = write_atomically(tmp_path / "a.txt", "old")
    child = f"""if True:
        import os, signal
        from mechsteer.files import atomic_path
        with atomic_path({str(path)!r}, one_writer={one_writer}) as part:
            part.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", child], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text(encoding="utf-8") == "old"
    with atomic_path(path, one_writer=one_writer) as part:
        part.write_text("new")
    assert path.read_text(encoding="utf-8") == "new"
    left = [p.suffix for p in tmp_path.iterdir() if p != path]
    assert left == ([] if one_writer else [".partial"])  # one writer writes over what was left


def test_file_and_folder_are_synced_in_this_order(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def watched(number):
        is_folder = stat.S_ISDIR(os.fstat(number).st_mode)
        synced.append(("folder" if is_folder else "file", (tmp_path / "a").exists()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", watched)
    write_atomically(tmp_path / "a", b"x")
    assert synced == [("file", False), ("folder", True)]
