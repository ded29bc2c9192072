"""One process at a time in a run folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mechsteer.errors import StorageError

NAME = ".lock"


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is not there; the system lets go of what a dead process held.

    On leaving, the lock file goes, and the folder too if nothing else is in it and it was made here. Raises
    StorageError naming the process that holds the folder.
    """
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _held(folder / NAME)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write in {folder}: {error.strerror or error}", "choose another folder") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / NAME).unlink()
        file.close()
        if not existed:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def _held(path: Path) -> IO[str]:
    """The lock file, open and locked, with our name in it."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = _told(file.read())
            file.close()
            raise StorageError(
                f"{path.parent} is in use by {holder}", "wait until it has ended, or give another folder with out=..."
            ) from error
        try:
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                break
        except FileNotFoundError:
            pass  # its holder took it away between our opening and locking it
        file.close()
    file.seek(0)
    file.truncate()
    json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
    file.flush()
    return file


def _told(text: str) -> str:
    try:
        known = json.loads(text)
        return f"process {known['pid']} on {known['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
