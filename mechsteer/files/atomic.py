"""Files appear whole or not at all, and a disk that refuses is one clear error."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mechsteer.errors import ConfigError, StorageError

PARTIAL = ".partial"  # how the name of a file ends that is not whole yet


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, one_writer: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to; on leaving the block it becomes `path`, on an exception it is removed.

    Its name is this process's own, so that two may write the same file. With `one_writer` it is always the same:
    what a killed process left of a large file is written over by the next.

    Raises StorageError when the disk is full, read-only, or the folder cannot be made.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}{'' if one_writer else f'.{os.getpid()}'}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        rename(part, path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}", "free some space, or choose another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder beside `path` to fill; on leaving the block it becomes `path`, on an exception it is removed.

    Raises ConfigError where something is at `path` that is no empty folder, StorageError when the disk refuses.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} is there already", "give a new folder")
        part.mkdir(parents=True)
        yield part
        if path.is_dir():
            path.rmdir()  # it is empty
        rename(part, path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}", "free some space, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write bytes, or UTF-8 text; a reader sees the old file or the new one. Raises StorageError."""
    with atomic_path(path) as part:
        part.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return Path(path)


def remove(path: Path) -> None:
    """Remove a file if it is there. Raises StorageError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot remove {path}: {error.strerror or error}", "give a folder that can be written"
        ) from error


def rename(source: Path, target: Path) -> None:
    """Rename, and make the rename itself survive a power cut. `source` must be synced already."""
    source.replace(target)
    if os.name == "nt":
        return  # Windows opens no folders
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
