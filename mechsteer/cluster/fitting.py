"""Does a worker fit its driver? The same program and libraries, and the same folder before its eyes."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from mechsteer.errors import ClusterError, StorageError
from mechsteer.files import write_atomically

DESK = ".workers"  # in the shared folder: what the workers of a running driver read, gone when it ends
TOKEN = "token"
LIBRARIES = ("torch", "transformers", "transformer-lens", "numpy")  # that decide what comes out
_PATIENCE = 20  # looks, a quarter of a second apart: a network's file system shows a new file late


def versions() -> dict[str, str]:
    """What must be equal on all machines for equal results: Python, libraries, and mechsteer to the letter."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    found = {"Python": platform.python_version(), "mechsteer": digest.hexdigest()[:12]}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def require_versions(drivers: Mapping[str, str]) -> None:
    """Raise ClusterError, naming what differs, unless this process runs what the driver runs."""
    own = versions()
    if own != drivers:
        differing = [name for name in sorted({*own, *drivers}) if own.get(name) != drivers.get(name)]
        told = ", ".join(f"{name} {own.get(name)} for {drivers.get(name)}" for name in differing)
        raise ClusterError(
            f"the worker on {platform.node()} has another installation than its driver: {told}",
            "install the same versions on every machine (constraints.txt pins them)",
        )


@contextlib.contextmanager
def desk(folder: Path) -> Iterator[tuple[Path, str]]:
    """(a folder inside `folder` for what workers read, its token), gone on leaving. Raises StorageError.

    What a driver that was killed has left there goes first: the caller holds the folder's lock.
    """
    path, token = folder / DESK, secrets.token_hex(8)
    clear_desk(folder)
    write_atomically(path / TOKEN, token)
    try:
        yield path, token
    finally:
        shutil.rmtree(path, ignore_errors=True)


def clear_desk(folder: Path) -> None:
    """Remove what a driver that was killed has left for its workers."""
    shutil.rmtree(folder / DESK, ignore_errors=True)


def require_shared(folder: Path, token: str, *, patience: int = _PATIENCE) -> None:
    """Raise StorageError unless this process sees, in `folder`, the token that its driver wrote there."""
    path, seen = folder / DESK / TOKEN, None
    for _ in range(patience):
        with contextlib.suppress(OSError):
            seen = path.read_text("utf-8")
        if seen == token:
            return
        time.sleep(0.25)
    found = "another driver's files" if seen is not None else "nothing of its driver's"
    raise StorageError(
        f"{folder} is not shared: the worker on {platform.node()} sees {found} there",
        "give a folder on a file system that all machines of the cluster have at the same path",
    )
