"""A run folder: what is done is read back, what is not is done; the result equals an undisturbed run's.

config.json      the settings; keys given explicitly go over them, and rerun the stages they concern
stages/*.json    the result of each finished stage, what it was made from, and a digest of the file
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
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mechsteer.configs.fields import flat, nested
from mechsteer.configs.schema import Settings
from mechsteer.configs.settings import KEYS, changed, explicit, over
from mechsteer.errors import FileFormatError
from mechsteer.files import PARTIAL, digest_of, folder_lock, read_record, write_atomically, write_record
from mechsteer.models import load_model, model_fingerprint
from mechsteer.results import from_plain, to_plain
from mechsteer.runtime.threads import side_by_side
from mechsteer.studies.desk import Desk
from mechsteer.studies.graph import Declaration, declared_keys

CONFIG, CHECKPOINTS = "config.json", "checkpoints"
FORMAT = 3  # of stage files

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
        before = None if again == set(stages) else read_settings(folder)
        settings = over(given, before)
        if before is not None and say is not None:
            for text in changed(settings, over({"out": settings.out}, before)):
                if not text.startswith("heatmap."):
                    say(f"{folder}: now {text}")
        yield Run(settings, stages, steers=steers, progress=progress, say=say, again=again)


def read_settings(folder: Path) -> Settings | None:
    """The settings of the run in a folder; None where there is none. Raises FileFormatError, ConfigError."""
    remedy = f"give its settings again: mechsteer study out={folder} --again key=value ... starts it over with them"
    content = read_record(folder / CONFIG, hint=remedy)
    return None if content is None else over(explicit(content["settings"]))


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
        self.folder = Path(settings.out)
        self._steers = steers
        self._finished: dict[str, Finished] = {}

    @functools.cached_property
    def model(self) -> Any:
        """The model, frozen."""
        s = self.settings
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
        done: dict[str, Finished] = {}
        model = self.recorded_fingerprint()
        for name, stage in self.stages.items():
            path = self._file(name)
            if model is None or not path.exists():
                continue
            inputs = {need: done[need] for need in stage.declared.reads if need in done}
            content = self._content(name)
            made_from = self._made_from(name, inputs, model)
            if content is not None:  # data may lie elsewhere by now: what was made of them stands
                made_from["contents"] = content["made_from"]["contents"]
            if (why := self._stale(name, content, made_from)) is None:
                assert content is not None
                done[name] = self._read(name, content)
            else:
                self.say(f"{name} is left out: {why}; `mechsteer {name} out={self.folder}` brings it up to date")
        return {name: stage.result for name, stage in done.items()}

    def recorded_fingerprint(self) -> str | None:
        """The model's, as the first stage's file tells it; None where there is none."""
        content = self._content(next(iter(self.stages)))
        return None if content is None else content["made_from"]["model"]

    def handed(self, declared: Declaration, name: str) -> tuple[Desk, dict[str, Any]]:
        """What something beside the stages is handed by its declaration; what it reads is brought up to date."""
        inputs = {need: self._up_to_date(need) for need in declared.reads if self.has(need)}
        desk = self._desk(name, declared, inputs, {"keys": self._keys(declared)})
        return desk, {need: inputs[need].result if need in inputs else None for need in declared.reads}

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
        made_from = self._made_from(name, inputs, self.fingerprint)
        content = None if name in self.again else self._content(name)
        if content is not None and (why := self._stale(name, content, made_from)) is not None:
            self.say(f"{name} runs again: {why}")
            content = None
        if content is None:
            content = self._make(name, inputs, made_from)
        self._finished[name] = self._read(name, content)
        return self._finished[name]

    def _read(self, name: str, content: Mapping[str, Any]) -> Finished:
        return Finished(
            result=from_plain(self.stages[name].kind, content["result"]),
            digest=digest_of([content["result"], content["files"]]),
        )

    def _make(self, name: str, inputs: Mapping[str, Finished], made_from: Mapping[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        stage = self.stages[name]
        self.say(f"{name} ...")
        desk = self._desk(name, stage.declared, inputs, made_from)
        if name in self.again:
            shutil.rmtree(desk.checkpoints, ignore_errors=True)
        with self._claim(desk):
            results = {need: None if need not in inputs else inputs[need].result for need in stage.declared.reads}
            with side_by_side(self.model):
                result = to_plain(stage.function(desk, **results), stage.kind)
            desk.clear()
            files = {file: self._digest(file) for file in stage.declared.writes if (self.folder / file).exists()}
            content = {"made_from": dict(made_from), "files": files, "result": result}
            write_record(self._file(name), content)
        for old in (self.folder / CHECKPOINTS).glob(f"{name}-*"):
            shutil.rmtree(old, ignore_errors=True)
        seconds = time.perf_counter() - began
        write_atomically(self.folder / "timings.json", json.dumps(self.timings() | {name: seconds}, indent=1))
        self.say(f"{name} done in {seconds:.0f} s")
        return content

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

    def _made_from(self, name: str, inputs: Mapping[str, Finished], model: str) -> dict[str, Any]:
        """All that a stage depends on: the model, its keys (what files hold included), what it reads."""
        keys = self._keys(self.stages[name].declared)
        paths = {key: Path(str(value)) for key, value in keys.items() if KEYS[key].declared["contents"]}
        return {
            "format": FORMAT,
            "stage": name,
            "model": model,
            "keys": keys,
            "contents": {key: file_digest(path) for key, path in paths.items() if path.exists()},
            "reads": {need: finished.digest for need, finished in inputs.items()},
        }

    def _keys(self, declared: Declaration) -> dict[str, Any]:
        values = flat(self.settings)
        return {key.name: values[key.name] for key in declared_keys(declared.keys)}

    def _content(self, name: str) -> dict[str, Any] | None:
        """The stage's file. Raises FileFormatError for a damaged one."""
        return read_record(self._file(name), hint=f"{self._command(name)} makes it again")

    def _stale(self, name: str, content: dict[str, Any] | None, made_from: Mapping[str, Any]) -> str | None:
        """Why a stage's file is not this run's, or None. Raises FileFormatError where a file it wrote was changed."""
        if content is None:
            return "it has not run"
        then = content["made_from"]
        if then.get("format") != made_from["format"] or then.get("stage") != name:
            return "it is of another version"
        if then != made_from:
            return _differences(then, made_from)
        for file, digest in content["files"].items():
            now = self._digest(file)
            if now == "absent" or (now != digest and (self.folder / file).is_dir()):
                return f"{self.folder / file} is {'gone' if now == 'absent' else 'not whole'}"
            if now != digest:
                raise FileFormatError(
                    f"{self.folder / file} is not as {name} wrote it", f"{self._command(name)} makes it again"
                )
        return None

    def _digest(self, file: str) -> str:
        """Of a file its contents; of a folder the names and sizes (its reader checks what is in them)."""
        path = self.folder / file
        if not path.is_dir():
            return file_digest(path)
        return digest_of({str(p.relative_to(path)): p.stat().st_size for p in sorted(path.rglob("*")) if p.is_file()})

    def _file(self, name: str) -> Path:
        return self.folder / "stages" / f"{name}.json"

    def _command(self, name: str) -> str:
        return f"`mechsteer {name} out={self.folder} --again`"

    @contextlib.contextmanager
    def _claim(self, desk: Desk) -> Iterator[None]:
        """The folder has these settings from the stage on; if it fails with nothing to resume, those it had before."""
        path = self.folder / CONFIG
        before = path.read_bytes() if path.exists() else None
        tree = {key: value for key, value in flat(self.settings).items() if not key.startswith(("heatmap.", "out"))}
        write_record(path, {"settings": nested(tree)})
        try:
            yield
        except BaseException as error:
            if not desk.checkpoints.exists():  # nothing to resume
                path.unlink() if before is None else write_atomically(path, before)
            if isinstance(error, FileFormatError):
                raise self._with_remedy(error) from error
            raise

    def _with_remedy(self, error: FileFormatError) -> FileFormatError:
        """The error, with the stage that makes the damaged file again."""
        for name, stage in self.stages.items():
            made = [self.folder / file for file in stage.declared.writes]
            if any(str(path) in error.message for path in (*made, self.folder / CHECKPOINTS / f"{name}-")):
                return FileFormatError(error.message, f"{self._command(name)} makes it again")
        return error


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What a stage's dependencies differ in, in words."""
    if then["model"] != now["model"]:
        return f"it was made with another model (fingerprint {then['model']}, now {now['model']})"
    keys = [key for key in now["keys"] if key not in then["keys"] or then["keys"][key] != now["keys"][key]]
    keys += [
        key
        for key in {*then["contents"], *now["contents"]}
        if key not in keys and then["contents"].get(key) != now["contents"].get(key)
    ]
    reads = [need for need in {**now["reads"], **then["reads"]} if then["reads"].get(need) != now["reads"].get(need)]
    told = [f"{', '.join(keys)} changed"] if keys else []
    told += [f"what {' and '.join(reads)} gave changed"] if reads else []
    return " and ".join(told) or "it is of another version"


def file_digest(path: Path) -> str:
    """sha256 of a file; of a folder, of the names and contents of all its files; "absent" where there is neither."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        return "absent"
    return digest_of({str(p.relative_to(path)): file_digest(p) for p in sorted(path.rglob("*")) if p.is_file()})
