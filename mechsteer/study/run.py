"""A run folder: what is done is read back, what is not is done; the result equals an undisturbed run's.

config.json      the resolved configuration; a folder takes no other
stages/*.json    the result of each finished stage, written last
checkpoints/     pieces of the stage under way, gone when it is finished
timings.json     seconds per stage (the one file that two equal runs differ in)
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from mechsteer.errors import ConfigError, FileFormatError
from mechsteer.files import write_atomically
from mechsteer.models import load_model, model_fingerprint
from mechsteer.results import plain

T = TypeVar("T")
Stage = Callable[["Run"], Mapping[str, Any]]

CHECKPOINTS = "checkpoints"
_VIEW_ONLY = ("heatmap", "out")  # may change between calls on one folder


class Run:
    """Configuration, folder, the model (loaded when first needed) and the results of stages."""

    def __init__(
        self,
        config: Mapping[str, Any],
        stages: Mapping[str, tuple[Stage, tuple[str, ...]]],
        *,
        progress: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.config, self.stages, self.progress = dict(config), stages, progress
        self.say = say or (lambda _text: None)  # the command line prints
        self.folder = Path(self.config["out"])
        self._known: dict[str, Any] = {}
        self._settings = plain({key: value for key, value in self.config.items() if key not in _VIEW_ONLY})
        before = read_json(self.folder / "config.json")
        if before not in (None, self._settings):
            settings = self._settings
            changed = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
            raise ConfigError(
                f"{self.folder} holds a run with other settings ({', '.join(changed)} differ)",
                "give another folder with out=..., or remove this one to start over",
            )

    @contextlib.contextmanager
    def _claim(self) -> Iterator[None]:
        """The folder is this run's from its first stage on; if that fails, it is as it was before."""
        path, existed = self.folder / "config.json", self.folder.exists()
        if path.exists():
            yield
            return
        write_atomically(path, to_json(self._settings))
        try:
            yield
        except BaseException:
            if not (self.folder / CHECKPOINTS).exists():  # else there is something to resume
                path.unlink(missing_ok=True)
            if not existed:
                with contextlib.suppress(OSError):  # it is not empty
                    self.folder.rmdir()
            raise

    @functools.cached_property
    def model(self) -> Any:
        """The model, frozen."""
        return load_model(self.config["model"], backend=self.config["backend"])

    @functools.cached_property
    def fingerprint(self) -> str:
        return model_fingerprint(self.model)

    def seed(self, *names: object) -> int:
        """A seed for one purpose, from the run's seed."""
        text = "/".join(map(str, (self.config["seed"], *names)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def generator(self, *names: object) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed(*names))

    def result(self, name: str) -> dict[str, Any]:
        """The result of a stage, run first if it is not there; what it needs comes before it."""
        function, needs = self.stages[name]
        path = self.folder / "stages" / f"{name}.json"
        if (done := read_json(path)) is not None:
            return done
        for need in needs:
            self.result(need)
        began = time.perf_counter()
        self.say(f"{name} ...")
        with self._claim():
            result = plain(function(self))
            write_atomically(path, to_json(result))
        shutil.rmtree(self.folder / CHECKPOINTS / name, ignore_errors=True)
        timings = read_json(self.folder / "timings.json") or {}
        seconds = time.perf_counter() - began
        write_atomically(self.folder / "timings.json", to_json(timings | {name: seconds}))
        self.say(f"{name} done in {seconds:.0f} s")
        return result

    def once(self, name: str, look: Callable[[], T]) -> T:
        """What is found out once per run, such as what kind of data it has."""
        if name not in self._known:
            self._known[name] = look()
        return self._known[name]

    def checkpoint(self, stage: str, name: str) -> Path:
        """Where a piece of a stage is kept until the stage is finished."""
        return self.folder / CHECKPOINTS / stage / name

    def piece(self, stage: str, name: str, compute: Callable[[], Any]) -> Any:
        """A piece of a stage as plain data: what an interrupted run has kept, or `compute()`, kept."""
        path = self.checkpoint(stage, f"{name}.json")
        kept = read_json(path)
        if kept is None:
            kept = {"value": plain(compute())}
            write_atomically(path, to_json(kept))
        return kept["value"]


def to_json(value: Any) -> str:
    """Stable JSON of plain data; what is undefined is null."""
    return json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no file; raises FileFormatError where it is none."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise FileFormatError(f"{path} cannot be read: {error}", "remove it; its stage then runs again") from error
    if not isinstance(loaded, dict):
        raise FileFormatError(f"{path} holds a {type(loaded).__name__}", "remove it; its stage then runs again")
    return loaded
