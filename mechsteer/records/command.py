"""`mechsteer records`: what was recorded, from logs or from a database, and logs brought into one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from mechsteer.errors import ConfigError, closest
from mechsteer.records import library
from mechsteer.records.kinds import KINDS, ConfigRecord, EvaluationRecord, MetricsRecord, Record, RunRecord
from mechsteer.records.log import LOG, RunLog
from mechsteer.results import plain

R = TypeVar("R", bound=Record)
ACTIONS = ("list", "show", "import")
KEYS = ("database", "folder")
RUNS = "runs"  # where logs are looked for unless one says where


@dataclass(frozen=True, kw_only=True)
class RecordsCommand:
    """The words of one call, checked."""

    action: str
    words: tuple[str, ...]
    database: str | None = None
    folder: str | None = None

    @classmethod
    def of(cls, words: Sequence[str]) -> RecordsCommand:
        """Raises ConfigError for what is no call."""
        keys: dict[str, str] = {}
        others: list[str] = []
        for word in words:
            key, equals, value = word.partition("=")
            if equals and key in KEYS and value:
                keys[key] = value
            elif (equals and key.isidentifier()) or word.startswith("-"):
                raise ConfigError(f"mechsteer records takes no {word!r}", f"keys are {list(KEYS)}")
            else:
                others.append(word)
        action, *rest = others or ["list"]
        if action not in ACTIONS:
            near = closest(action, ACTIONS)
            raise ConfigError(f"mechsteer records {action}", f"did you mean {near}?" if near else f"it is {ACTIONS}")
        if action == "show" and not rest:
            raise ConfigError("no run is named", "mechsteer records show RUN, with the beginning of its id")
        if action == "import" and not rest:
            raise ConfigError("no log is named", "mechsteer records import runs, or a log, or a run folder")
        return cls(action=action, words=tuple(rest), database=keys.get("database"), folder=keys.get("folder"))


def records_command(words: Sequence[str]) -> str:
    """Do what is asked, and return what is to be printed. Raises ConfigError, and what logs and databases raise."""
    command = RecordsCommand.of(words)
    if command.action == "import":
        return _import(command)
    if command.action == "show":
        wanted, *places = command.words
        return _show(wanted, _records(command, places))
    return _list(_records(command, command.words))


def logs(places: Sequence[str]) -> list[Path]:
    """The logs at some places: files, or folders that hold some, at any depth. Raises ConfigError where there is none."""
    found: list[Path] = []
    for place in map(Path, places):
        here = sorted(place.rglob(LOG)) if place.is_dir() else [place]
        if not here or not here[0].is_file():
            raise ConfigError(f"there is no log at {place}", f"give a {LOG}, or a folder with one in it")
        found += here
    return found


def _records(command: RecordsCommand, places: Sequence[str]) -> list[Record]:
    if command.database is None:
        return [record for path in logs(places or [RUNS]) for record in RunLog(path).read().records]
    with library.open_database(command.database, folder=command.folder) as database:
        return [record for kind in KINDS.values() for record in database.read(kind)]


def _import(command: RecordsCommand) -> str:
    told = []
    with library.open_database(command.database or "embedded", folder=command.folder) as database:
        for path in logs(command.words):
            content = RunLog(path).read()
            new = database.add(content.records)
            told.append(f"{path}: {len(content.records)} records, {new} of them new")
            if content.torn:
                told.append(f"left out: {content.torn}")
    return "\n".join(told)


def _list(records: Sequence[Record]) -> str:
    runs = sorted(set(map(_key, _of(records, RunRecord))))
    if not runs:
        return "no runs"
    counts: dict[str, int] = {}
    for record in records:
        if run_id := getattr(record, "run_id", None):
            counts[run_id] = counts.get(run_id, 0) + 1
    told = [
        f"{run_id[:8]}  {started[:19]}  {name}  {model}  {counts[run_id]} records  {folder}"
        for started, run_id, name, model, folder in runs
    ]
    return "\n".join(map(_printable, told))


def _key(run: RunRecord) -> tuple[str, str, str, str, str]:
    return run.started, run.run_id, run.name, run.model, run.folder


def _show(wanted: str, records: Sequence[Record]) -> str:
    by_id = {run.run_id: run for run in _of(records, RunRecord)}
    found = [run for run_id, run in by_id.items() if run_id.startswith(wanted)]
    if len(found) != 1:
        ids = [run_id[:8] for run_id in by_id]
        raise ConfigError(f"{len(found)} runs begin with {wanted!r}", f"mechsteer records list; some are {ids[:5]}")
    (run,) = found
    own = [record for record in records if getattr(record, "run_id", None) == run.run_id]
    configs = [config.settings for config in _of(records, ConfigRecord) if config.config_id == run.config_id]
    told = {
        "run": plain(run),
        "settings": configs[0] if configs else None,
        "metrics": {record.stage: plain(record.metrics) for record in _of(own, MetricsRecord)},
        "evaluations": [plain(record) for record in _of(own, EvaluationRecord)],
        "records": {name: sum(isinstance(record, cls) for record in own) for name, cls in KINDS.items()},
    }
    return json.dumps(told, indent=1)  # in ASCII: texts may hold what a terminal obeys


def _of(records: Sequence[Record], kind: type[R]) -> list[R]:
    return [cast("R", record) for record in records if isinstance(record, kind)]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
