"""A run: what is done is read back, what is not is done; the result equals an undisturbed run's (see `folder`)."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import time
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mechsteer.configs.fields import flat, nested
from mechsteer.configs.schema import Settings
from mechsteer.configs.settings import over
from mechsteer.errors import FileFormatError
from mechsteer.files import PARTIAL, digest_of, folder_lock, write_atomically, write_record
from mechsteer.models import load_model, model_fingerprint
from mechsteer.results import from_plain, to_plain
from mechsteer.runtime.threads import side_by_side
from mechsteer.studies.desk import Desk
from mechsteer.studies.folder import CONFIG, Folder, lost_settings, now_changed, outcome, read_settings
from mechsteer.studies.graph import PICTURES, Declaration
from mechsteer.studies.pages import model_files
from mechsteer.studies.spread import RAY, connection, spread

CHECKPOINTS = "checkpoints"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """A declared stage and the function that makes its result.

    The function takes a Desk and, by their names, the results of the stages it reads; one that a run cannot have is
    None. What it returns is of the type that its annotation names.
    """

    declared: Declaration
    function: Callable[..., Any]

    @functools.cached_property
    def kind(self) -> Any:
        """The type of the result."""
        return typing.get_type_hints(self.function)["return"]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The result of a stage, and a digest of what came out: what stands on it stays while it comes out the same."""

    result: Any
    digest: str


@contextlib.contextmanager
def open_run(
    given: Mapping[str, Any],
    stages: Mapping[str, Stage],
    *,
    steers: Callable[[Any], bool],
    progress: bool = False,
    say: Say | None = None,
    again: Collection[str] = (),
) -> Iterator[Run]:
    """The run in the folder `given["out"]`, held against other processes: its own settings, given ones over them.

    `steers` tells from the result of the first stage whether this run has stages that steer; `again`: stages that
    run though they are done. Raises StorageError (the folder is in use), FileFormatError (its settings are damaged).
    """
    folder = Path(given.get("out", Settings().out))
    with folder_lock(folder):
        for left in folder.rglob(f".*{PARTIAL}"):  # of a process that was killed while it wrote: nobody else is here
            left.unlink(missing_ok=True)
        declared = {name: stage.declared for name, stage in stages.items()}
        before = None if again == set(stages) else read_settings(folder, declared)
        settings = over(given, before)
        if before is not None and say is not None:
            told = lost_settings(folder)
            for text in [*([told] if told else []), *now_changed(folder, settings, before)]:
                say(text)
        run = Run(settings, stages, steers=steers, progress=progress, say=say, again=again)
        with run.closing:
            yield run


class Run:
    """Settings, folder, the model (loaded when first needed) and the results of stages."""

    def __init__(
        self,
        settings: Settings,
        stages: Mapping[str, Stage],
        *,
        steers: Callable[[Any], bool],
        progress: bool = False,
        say: Say | None = None,
        again: Collection[str] = (),
    ) -> None:
        self.settings, self.stages, self.progress, self.again = settings, stages, progress, set(again)
        self.say: Say = say or (lambda _text: None)  # the command line prints
        self.files = Folder(settings, {name: stage.declared for name, stage in stages.items()})
        self.folder = self.files.path
        self.model_files: str | None = None  # of the model that was loaded
        self.after_stage: Callable[[str, Any, float], None] | None = None  # name, result, seconds of one that was made
        self.closing = contextlib.ExitStack()  # what holds from stage to stage
        self._is_connected = False
        self._steers = steers
        self._finished: dict[str, Finished] = {}

    @functools.cached_property
    def model(self) -> Any:
        """The model, frozen."""
        s = self.settings
        self.model_files = model_files(s.model)
        return load_model(s.model, backend=s.backend, device=s.device, dtype=getattr(torch, s.dtype))  # pyright: ignore[reportArgumentType]

    @functools.cached_property
    def fingerprint(self) -> str:
        return model_fingerprint(self.model)

    def result(self, name: str) -> Any:
        """The result of a stage, brought up to date first; what it reads comes before it."""
        return self._up_to_date(name).result

    def has(self, name: str) -> bool:
        """Whether this run's data can have a stage. Brings the first stage up to date."""
        return not self.stages[name].declared.steers or self._steers(self.result(next(iter(self.stages))))

    def finished(self) -> dict[str, Any]:
        """The results of all stages that are up to date with the settings and each other; the others are named.

        The model is not loaded: that all were made with the one that the first names is what is checked.
        """
        done, left = self.files.standing(self.files.recorded_fingerprint())
        for why in left.values():
            self.say(why)
        return {name: self._read(name, content).result for name, content in done.items()}

    def handed(self, declared: Declaration, name: str) -> tuple[Desk, dict[str, Any]]:
        """What something beside the stages is handed by its declaration; what it reads is brought up to date."""
        inputs = {need: self._up_to_date(need) for need in declared.reads if self.has(need)}
        desk = self._desk(name, declared, inputs, {"keys": self.files.keys(declared)})
        return desk, {need: inputs[need].result if need in inputs else None for need in declared.reads}

    def keep_settings(self) -> None:
        """Write config.json where it is gone."""
        if not (self.folder / CONFIG).exists():
            self._write_settings()

    def timings(self) -> dict[str, float]:
        """Seconds per stage, as far as they are known."""
        try:
            loaded = json.loads((self.folder / "timings.json").read_text(encoding="utf-8"))
            return {str(name): float(seconds) for name, seconds in loaded.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def _up_to_date(self, name: str) -> Finished:
        if name in self._finished:
            return self._finished[name]
        reads = self.stages[name].declared.reads
        inputs = {need: self._up_to_date(need) for need in reads if self.has(need)}
        digests = {need: finished.digest for need, finished in inputs.items()}
        made_from = self.files.made_from(name, digests, self.fingerprint)
        content = None if name in self.again else self.files.content(name)
        if content is not None and (why := self.files.stale(name, content, made_from)) is not None:
            self.say(f"{name} runs again: {why}")
            content = None
        is_made = content is None
        if content is None:
            content = self._make(name, inputs, made_from)
        finished = self._finished[name] = self._read(name, content)
        if is_made and self.after_stage is not None:
            self.after_stage(name, finished.result, self.timings().get(name, 0.0))
        return finished

    def _read(self, name: str, content: Mapping[str, Any]) -> Finished:
        return Finished(result=from_plain(self.stages[name].kind, content["result"]), digest=outcome(content))

    def _make(self, name: str, inputs: Mapping[str, Finished], made_from: Mapping[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        stage = self.stages[name]
        self.say(f"{name} ...")
        desk = self._desk(name, stage.declared, inputs, made_from)
        if name in self.again:
            shutil.rmtree(desk.checkpoints, ignore_errors=True)
        with self._claim(desk):
            results = {need: None if need not in inputs else inputs[need].result for need in stage.declared.reads}
            with self._pieces(desk):
                result = to_plain(stage.function(desk, **results), stage.kind)
            desk.clear()
            files = {file: self.files.digest(file) for file in stage.declared.writes if (self.folder / file).exists()}
            content = {"made_from": dict(made_from), "files": files, "result": result}
            write_record(self.files.file(name), content)
        for old in (self.folder / CHECKPOINTS).glob(f"{name}-*"):
            shutil.rmtree(old, ignore_errors=True)
        seconds = time.perf_counter() - began
        write_atomically(self.folder / "timings.json", json.dumps(self.timings() | {name: seconds}, indent=1))
        self.say(f"{name} done in {seconds:.0f} s")
        return content

    @contextlib.contextmanager
    def _pieces(self, desk: Desk) -> Iterator[None]:
        """Inside, the pieces of a stage that has some run side by side here, or on workers."""
        if not desk.declared.has_pieces:
            yield
            return
        if self.settings.launcher == RAY and not self._is_connected:
            self.closing.enter_context(connection(self.settings))
            self._is_connected = True
        with side_by_side(self.model), spread(desk):
            yield

    def follow(self, name: str, checkpoints: str, aside: Path) -> Callable[[], object]:
        """On a worker: the function of a stage that the driver is at, its pieces kept where the driver keeps them.

        What else the stage writes goes to the folder `aside`. Raises FileFormatError where this run is another one.
        """
        stage = self.stages[name]
        contents = {need: self.files.content(need) for need in stage.declared.reads}
        inputs = {need: self._read(need, content) for need, content in contents.items() if content is not None}
        made_from = self.files.made_from(name, {need: each.digest for need, each in inputs.items()}, self.fingerprint)
        desk = replace(self._desk(name, stage.declared, inputs, made_from), aside=aside, progress=False)
        if desk.checkpoints.name != checkpoints:
            raise FileFormatError(f"{self.folder} holds another run of {name} than the driver's", "start it again")
        results = {need: None if need not in inputs else inputs[need].result for need in stage.declared.reads}
        return lambda: stage.function(desk, **results)

    def _desk(
        self, name: str, declared: Declaration, inputs: Mapping[str, Finished], made_from: Mapping[str, Any]
    ) -> Desk:
        return Desk(
            name=name,
            declared=declared,
            folder=self.folder,
            checkpoints=self.folder / CHECKPOINTS / f"{name}-{digest_of(made_from)[:12]}",
            all_settings=self.settings,
            keys=tuple(made_from["keys"]),
            readable=tuple(file for need in inputs for file in self.stages[need].declared.writes),
            model=self.model,
            fingerprint=self.fingerprint,
            progress=self.progress,
        )

    @contextlib.contextmanager
    def _claim(self, desk: Desk) -> Iterator[None]:
        """The folder has these settings from the stage on; if it fails with nothing to resume, those it had before."""
        path = self.folder / CONFIG
        before = path.read_bytes() if path.exists() else None
        self._write_settings()
        try:
            yield
        except BaseException as error:
            if not desk.checkpoints.exists():  # nothing to resume
                path.unlink() if before is None else write_atomically(path, before)
            if isinstance(error, FileFormatError):
                raise self._with_remedy(error) from error
            raise

    def _write_settings(self) -> None:
        tree = {key: value for key, value in flat(self.settings).items() if not key.startswith((*PICTURES, "out"))}
        write_record(self.folder / CONFIG, {"settings": nested(tree)})

    def _with_remedy(self, error: FileFormatError) -> FileFormatError:
        """The error, with the stage that makes the damaged file again."""
        for name, stage in self.stages.items():
            made = [self.folder / file for file in stage.declared.writes]
            if any(str(path) in error.message for path in (*made, self.folder / CHECKPOINTS / f"{name}-")):
                return FileFormatError(error.message, f"{self.files.command(name)} makes it again")
        return error
