"""One writer per folder: a second process is refused by name.

The lock is the kernel's (flock) on a small file in the folder that names its holder; it ends with the process,
however that ends, so a file that a killed process left behind locks nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from mechsteer.errors import StorageError

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"

_held: dict[Path, int] = {}  # folder -> the thread of this process that holds it
_guard = threading.Lock()


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold `folder` (made if need be) against other processes and other threads; the same thread may nest.

    The file `.lock` lies in the folder meanwhile; folders that were made here go again if nothing came into them.
    Raises StorageError, naming the folder and the process that holds it, at once, and where the folder cannot be made
    or locked. On Windows nothing is locked.
    """
    path = Path(folder).resolve()
    with _guard:
        holder = _held.get(path)
        if holder not in (None, threading.get_ident()):
            raise _taken(folder, f"another thread of this process ({os.getpid()})")
        if holder is None:
            _held[path] = threading.get_ident()
    if holder is not None:
        yield
        return
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        file = _acquire(path, folder)
        try:
            yield
        finally:
            _release(path, file)
            with contextlib.suppress(OSError):  # something is in it
                for new in made:
                    new.rmdir()
    finally:
        with _guard:
            del _held[path]


def _acquire(path: Path, folder: str | os.PathLike[str]) -> int | None:
    """The open, locked file; None where there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        while True:
            path.mkdir(parents=True, exist_ok=True)
            try:
                file = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                continue  # its holder let the folder go between our two steps
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(file, path / LOCK):
                    os.ftruncate(file, 0)
                    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                    return file
            except BlockingIOError:
                holder = os.pread(file, 300, 0).decode("utf-8", "replace")
                os.close(file)
                raise _taken(folder, holder or "another process") from None
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # its holder removed it between our opening and locking: there is a new one, or none
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot write in {folder}: {error.strerror or error}", "give a folder that can be written, on a local disk"
        ) from error


def _release(path: Path, file: int | None) -> None:
    if file is not None:
        with contextlib.suppress(OSError):
            (path / LOCK).unlink()  # while it is still locked: nobody can hold it yet
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _taken(folder: str | os.PathLike[str], by: str) -> StorageError:
    return StorageError(f"{os.fspath(folder)} is in use by {by}", "wait until it has ended, or give another folder")
