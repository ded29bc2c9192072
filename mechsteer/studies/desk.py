"""What a stage is handed: its declared settings and files, the model, and places to keep pieces."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, cast

import torch

from mechsteer.configs.schema import Settings
from mechsteer.errors import FileFormatError
from mechsteer.files import read_record, write_atomically, write_record
from mechsteer.results import from_plain, to_plain
from mechsteer.studies.graph import Declaration


class _Declared:
    """A view of settings that shows the declared keys alone."""

    def __init__(self, settings: Any, stage: str, keys: Collection[str], prefix: str = "") -> None:
        self._settings, self._stage, self._keys, self._prefix = settings, stage, keys, prefix

    def __getattr__(self, name: str) -> Any:
        key, value = f"{self._prefix}{name}", getattr(self._settings, name)
        if is_dataclass(value):
            return _Declared(value, self._stage, self._keys, f"{key}.")
        assert key in self._keys, f"{self._stage} does not declare that it depends on {key}"
        return value


@dataclass(frozen=True, kw_only=True)
class Desk:
    """One stage's access to its run; anything undeclared is an AssertionError."""

    name: str
    declared: Declaration
    folder: Path
    checkpoints: Path
    all_settings: Settings
    keys: tuple[str, ...]
    readable: tuple[str, ...]
    model: Any
    fingerprint: str
    progress: bool = False
    aside: Path | None = None
    """where what the stage writes goes, on a worker: the files of the run are its driver's"""

    @property
    def settings(self) -> Settings:
        """The settings, of which only declared keys can be read."""
        return cast("Settings", _Declared(self.all_settings, self.name, self.keys))

    def seed(self, *names: object) -> int:
        """A seed for one purpose, from the run's seed."""
        text = "/".join(map(str, (self.settings.seed, *names)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def generator(self, *names: object) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed(*names))

    def read(self, name: str) -> Path:
        """A file or folder of a stage that this one reads."""
        assert name in self.readable, f"{self.name} does not declare that it reads what writes {name}"
        return self.folder / name

    def write(self, name: str) -> Path:
        """Where this stage writes a file or folder of its own; what other settings left there goes first."""
        assert name in self.declared.writes, f"{self.name} does not declare that it writes {name}"
        if self.aside is not None:
            return self.aside / name
        self.clear()
        return self.folder / name

    def clear(self) -> None:
        """What the stage has written under other settings goes, unless this run of it has written already."""
        begun = self.checkpoints / "begun"
        if begun.exists():
            return
        (self.folder / "stages" / f"{self.name}.json").unlink(missing_ok=True)
        for old in self.declared.writes:
            shutil.rmtree(self.folder / old, ignore_errors=True)
            (self.folder / old).unlink(missing_ok=True)
        write_atomically(begun, "")

    def checkpoint(self, name: str) -> Path:
        """Where a piece of the stage is kept until the stage is finished."""
        return self.checkpoints / name.replace("/", "_")

    def has_piece(self, name: str) -> bool:
        """Whether an interrupted run, or a worker, has left it; it may be damaged."""
        return self.checkpoint(f"{name}.json").exists()

    def piece(self, name: str, compute: Callable[[], Any], kind: Any = Any) -> Any:
        """A piece of the stage, of type `kind`: what an interrupted run has kept, or `compute()`, kept."""
        path = self.checkpoint(f"{name}.json")
        try:
            kept = read_record(path)
        except FileFormatError:
            kept = None  # it is made again
        if kept is None:
            kept = {"value": to_plain(compute(), kind)}
            write_record(path, kept)
        return from_plain(kind, kept["value"])
