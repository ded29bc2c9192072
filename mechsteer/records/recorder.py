"""Where the records of one run go: its log always, a database as long as there is one."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from mechsteer.errors import DatabaseError, FileFormatError
from mechsteer.records import library
from mechsteer.records.kinds import MetricsRecord, Record, RunRecord, config_of
from mechsteer.records.log import RunLog
from mechsteer.results import plain

Say = Callable[[str], None]


class Recorder:
    """The records of one run. The run and its configuration are recorded with the first of its other records.

    `model_fingerprint`: a function is asked when the run is recorded. `database`: "embedded", the address of a server, or None. What the log holds already goes there first. One that
    cannot be reached, or fails later, is said once; the log goes on, and its records are imported whenever the database
    is opened again.

    Use it as a context manager; `run_id` tells the run from every other.
    """

    def __init__(
        self,
        log: RunLog,
        *,
        name: str,
        settings: Mapping[str, Any],
        folder: str = "",
        model: str = "",
        model_fingerprint: str | Callable[[], str] = "",
        versions: Mapping[str, str] | None = None,
        database: str | None = None,
        database_folder: str | None = None,
        say: Say | None = None,
    ) -> None:
        self.log, self.say = log, say or (lambda _text: None)
        self.run_id = uuid.uuid4().hex
        self._config = config_of(plain(dict(settings)))
        self._run = RunRecord(
            run_id=self.run_id,
            name=name,
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            folder=folder,
            model=model,
            config_id=self._config.config_id,
            versions=dict(versions or {}),
        )
        self._fingerprint = model_fingerprint
        self._begun = False
        self._waiting: list[Record] = []  # what could not be written yet
        self._database: Any = None
        if database is not None:
            self._with_database(lambda: self._open(database, database_folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the database; the log is whole at any time."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def add(self, records: Iterable[Record]) -> None:
        """Record these.

        Raises StorageError where the log cannot be written: they wait then, and go with the next. Of a database that
        fails nothing is raised.
        """
        if not self._begun:
            told = self._fingerprint
            run = dataclasses.replace(self._run, model_fingerprint=told if isinstance(told, str) else told())
            self._waiting += [self._config, run]
            self._begun = True
        self._waiting += records
        self.log.append(self._waiting)
        new, self._waiting = self._waiting, []
        if self._database is not None:
            self._with_database(lambda: self._database.add(new))

    def metrics(self, stage: str, metrics: Mapping[str, Any], seconds: float | None = None) -> None:
        """Record the figures of a stage: plain data, in which what is undefined is None."""
        self.add([MetricsRecord(run_id=self.run_id, stage=stage, metrics=plain(dict(metrics)), seconds=seconds)])

    def _open(self, where: str, folder: str | None) -> None:
        self._database = library.open_database(where, folder=folder)
        if self.log.path.exists():
            self._database.add(self.log.read().records)

    def _with_database(self, use: Callable[[], object]) -> None:
        try:
            use()
        except (DatabaseError, FileFormatError) as error:
            self.close()
            self.say(
                f"no records in the database from here on: {error.message} ({error.hint}); {self.log.path} has them all, "
                f"and `mechsteer records import {self.log.path}` brings them there later"
            )
