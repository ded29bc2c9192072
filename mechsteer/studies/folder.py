"""A run folder as it lies there: its settings, the files of its stages, and whether these still stand.

config.json      the settings; keys given explicitly go over them, and rerun the stages they concern
stages/*.json    the result of each finished stage, what it was made from, and a digest of the file
pages.json       what the report was written from, and with which files of the model (`pages`)
checkpoints/     pieces of the stage under way, gone when it is finished
timings.json     seconds per stage
records.jsonl    what was made when, appended to (it and timings.json are what two equal runs differ in)

Nothing heavy is imported: a command on what is finished is answered from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mechsteer.configs.fields import flat
from mechsteer.configs.schema import Settings
from mechsteer.configs.settings import KEYS, changed, explicit, over
from mechsteer.errors import ConfigError, FileFormatError
from mechsteer.files import digest_of, read_record
from mechsteer.studies.graph import PICTURES, Declaration, declared_keys

CONFIG, STAGE_FILES = "config.json", "stages"
FORMAT = 4  # of stage files


class Folder:
    """The files of a run under some settings; `stages` are its declarations, in the order they run."""

    def __init__(self, settings: Settings, stages: Mapping[str, Declaration]) -> None:
        self.settings, self.declared = settings, stages
        self.path = Path(settings.out)

    def file(self, name: str) -> Path:
        """Where the result of a stage lies."""
        return self.path / STAGE_FILES / f"{name}.json"

    def content(self, name: str) -> dict[str, Any] | None:
        """What a stage's file holds; None where there is none. Raises FileFormatError for a damaged one."""
        return read_record(self.file(name), hint=f"{self.command(name)} makes it again")

    def command(self, name: str) -> str:
        """What a user types to have a stage made again."""
        return f"`mechsteer {name} out={self.path} --again`"

    def recorded_fingerprint(self) -> str | None:
        """The model's, as the first stage's file tells it; None where there is none."""
        content = self.content(next(iter(self.declared)))
        return None if content is None else made_from_of(content).get("model")

    def keys(self, declared: Declaration) -> dict[str, Any]:
        """The settings that something depends on."""
        values = flat(self.settings)
        return {key.name: values[key.name] for key in declared_keys(declared.keys)}

    def made_from(self, name: str, reads: Mapping[str, str], model: str) -> dict[str, Any]:
        """All that a stage depends on: the model, its keys (what files hold included), digests of what it reads."""
        keys = self.keys(self.declared[name])
        paths = {key: Path(str(value)) for key, value in keys.items() if KEYS[key].declared["contents"]}
        return {
            "format": FORMAT,
            "stage": name,
            "model": model,
            "keys": keys,
            "contents": {key: file_digest(path) for key, path in paths.items() if path.exists()},
            "reads": dict(reads),
        }

    def stale(self, name: str, content: Mapping[str, Any] | None, made_from: Mapping[str, Any]) -> str | None:
        """Why a stage's file is not this run's, or None. Raises FileFormatError where a file it wrote was changed."""
        if content is None:
            return "it has not run"
        then = made_from_of(content)
        if not {"model", "keys", "contents", "reads"} <= then.keys():
            return "its file does not tell which model and settings it was made with"
        if then.get("format") != made_from["format"] or then.get("stage") != name:
            return "it is of another version"
        if then != made_from:
            return differences(then, made_from)
        for file, digest in content["files"].items():
            now = self.digest(file)
            if now == "absent" or (now != digest and (self.path / file).is_dir()):
                return f"{self.path / file} is {'gone' if now == 'absent' else 'not whole'}"
            if now != digest:
                raise FileFormatError(
                    f"{self.path / file} is not as {name} wrote it", f"{self.command(name)} makes it again"
                )
        return None

    def standing(self, model: str | None) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """The files of all stages that are up to date with settings, model and each other; why others are not.

        Data may lie elsewhere by now: what was made of them stands.
        """
        done: dict[str, dict[str, Any]] = {}
        left: dict[str, str] = {}
        for name, declared in self.declared.items():
            if model is None or not self.file(name).exists():
                continue
            content = self.content(name)
            reads = {need: outcome(done[need]) for need in declared.reads if need in done}
            made_from = self.made_from(name, reads, model)
            if content is not None:
                made_from["contents"] = made_from_of(content).get("contents")
            if (why := self.stale(name, content, made_from)) is None:
                assert content is not None
                done[name] = content
            else:
                left[name] = f"{name} is left out: {why}; `mechsteer {name} out={self.path}` brings it up to date"
        return done, left

    def digest(self, file: str) -> str:
        """Of a file its contents; of a folder the names and sizes (its reader checks what is in them)."""
        path = self.path / file
        if not path.is_dir():
            return file_digest(path)
        return digest_of({str(p.relative_to(path)): p.stat().st_size for p in sorted(path.rglob("*")) if p.is_file()})


def made_from_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a stage's file says it was made from; nothing where it does not say."""
    made_from = content.get("made_from")
    return made_from if isinstance(made_from, Mapping) else {}


def outcome(content: Mapping[str, Any]) -> str:
    """A digest of what came out of a stage: what stands on it stays while it comes out the same."""
    return digest_of([content["result"], content["files"]])


def read_settings(folder: Path, stages: Mapping[str, Declaration]) -> Settings | None:
    """The settings of the run in a folder; None where there is none.

    Where config.json is gone, those that the stages were made with, if they agree. Raises FileFormatError, ConfigError.
    """
    content = read_record(folder / CONFIG, hint=_starts_over(folder))
    if content is None:
        return _from_stages(folder, stages)
    if not isinstance(content.get("settings"), Mapping):
        raise FileFormatError(f"{folder / CONFIG} holds no settings", _starts_over(folder))
    return over(explicit(content["settings"]))


def _from_stages(folder: Path, stages: Mapping[str, Declaration]) -> Settings | None:
    """The settings that the stages of a folder tell; None where none has run."""
    bare = Folder(over({"out": str(folder)}), stages)
    told = {name: content for name in stages if (content := bare.content(name)) is not None}
    found: dict[str, Any] = {}
    for name, content in told.items():
        keys = made_from_of(content).get("keys")
        if not isinstance(keys, Mapping) or any(found.get(key, value) != value for key, value in keys.items()):
            raise ConfigError(
                f"{folder} has stages and no {CONFIG}, and {name} does not tell the settings that the others do",
                f"give another folder; or {_starts_over(folder)}",
            )
        found |= keys
    return over(explicit(found)) if told else None


def _starts_over(folder: Path) -> str:
    return f"give its settings again: mechsteer study out={folder} --again key=value ... starts it over with them"


def require_run(given: Mapping[str, Any]) -> None:
    """Raises ConfigError for a folder without a run."""
    folder = Path(given.get("out", Settings().out))
    if not (folder / CONFIG).is_file() and lost_settings(folder) is None:
        raise ConfigError(f"nothing has run in {folder}", "give the folder of a run with out=..., or run the study")


def lost_settings(folder: Path) -> str | None:
    """What to say where config.json is gone and stages are there."""
    if (folder / CONFIG).exists() or not any((folder / STAGE_FILES).glob("*.json")):
        return None
    return (
        f"{folder / CONFIG} is gone: settings are those that its stages were made with, "
        "and of stages that have not run the defaults"
    )


def now_changed(folder: Path, settings: Settings, before: Settings) -> list[str]:
    """What to say of keys that change the settings a folder had."""
    told = changed(settings, over({"out": settings.out}, before))
    return [f"{folder}: now {text}" for text in told if not text.startswith(PICTURES)]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
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
