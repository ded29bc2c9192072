"""Files appear whole or not at all."""

import errno
import os
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
