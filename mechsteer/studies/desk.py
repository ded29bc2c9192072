"""What a stage is handed: its declared settings, results and files, the model, and places to keep pieces."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mechsteer.errors import FileFormatError
from mechsteer.files import read_record, write_record
from mechsteer.results import plain
from mechsteer.studies.graph import Declaration


class Desk:
    """One stage's access to its run; anything undeclared is an AssertionError."""

    def __init__(
        self,
        name: str,
        declared: Declaration,
        *,
        folder: Path,
        checkpoints: Path,
        settings: Mapping[str, Any],
        results: Mapping[str, Any],
        readable: tuple[str, ...],
        model: Any,
        fingerprint: str,
        progress: bool = False,
    ) -> None:
        self.name, self.declared = name, declared
        self.folder, self.checkpoints = folder, checkpoints
        self.config, self.results, self.readable = settings, results, readable
        self.model, self.fingerprint, self.progress = model, fingerprint, progress

    def has(self, stage: str) -> bool:
        """Whether this run has a stage that this one reads."""
        assert stage in self.declared.reads, f"{self.name} does not declare that it reads {stage}"
        return stage in self.results

    def result(self, stage: str) -> Any:
        """The result of a stage that this one reads."""
        assert stage in self.results, f"{self.name} does not declare that it reads {stage}"
        return self.results[stage]

    def seed(self, *names: object) -> int:
        """A seed for one purpose, from the run's seed."""
        text = "/".join(map(str, (self.config["seed"], *names)))
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
        if not self.checkpoints.exists():  # nothing of ours is there to go on from
            (self.folder / "stages" / f"{self.name}.json").unlink(missing_ok=True)
            for old in self.declared.writes:
                shutil.rmtree(self.folder / old, ignore_errors=True)
                (self.folder / old).unlink(missing_ok=True)
            self.checkpoints.mkdir(parents=True)
        return self.folder / name

    def checkpoint(self, name: str) -> Path:
        """Where a piece of the stage is kept until the stage is finished."""
        return self.checkpoints / name.replace("/", "_")

    def piece(self, name: str, compute: Callable[[], Any]) -> Any:
        """A piece of the stage as plain data: what an interrupted run has kept, or `compute()`, kept."""
        path = self.checkpoint(f"{name}.json")
        try:
            kept = read_record(path)
        except FileFormatError:
            kept = None  # it is made again
        if kept is None:
            kept = {"value": plain(compute())}
            write_record(path, kept)
        return kept["value"]
