"""The database of records: PostgreSQL through SQLAlchemy, the embedded one or a server of one's own.

A record goes in once, however often it comes: its id is a digest of what it says. Texts, metrics and scores can be asked
for in SQL; the tables are named as the kinds of records are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from mechsteer.errors import ConfigError, DatabaseError
from mechsteer.records.embedded import EmbeddedServer
from mechsteer.records.kinds import Record
from mechsteer.records.migrating import upgrade
from mechsteer.records.tables import TABLES, record_of_row, row_of

R = TypeVar("R", bound=Record)
EMBEDDED = "embedded"
TIMEOUT_S = 4  # until a server that does not answer is given up


class Database:
    """An open database of records; made by `open_database`. A context manager, which closes it."""

    def __init__(self, engine: sa.Engine, server: EmbeddedServer | None = None) -> None:
        self.engine, self._server = engine, server
        self.revision = ""  # of the schema

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the server; the embedded one is stopped if nobody else uses it."""
        self.engine.dispose()
        if self._server is not None:
            self._server.close()

    def add(self, records: Iterable[Record]) -> int:
        """Put records in, all or none; how many of them were not there before. Raises DatabaseError."""
        rows: dict[sa.Table, dict[str, dict]] = {table: {} for table in TABLES.values()}
        for record in records:
            row = row_of(record)
            rows[TABLES[type(record)]][row["id"]] = row
        new = 0
        with self.transaction() as connection:
            for table, by_id in rows.items():
                if by_id:
                    # in the order of their ids, so that two writers cannot wait for each other
                    ordered = [by_id[key] for key in sorted(by_id)]
                    new += inserted(connection, insert(table).on_conflict_do_nothing(index_elements=["id"]), ordered)
        return new

    def read(self, kind: type[R], run_id: str | None = None) -> list[R]:
        """The records of a kind, of one run or of all; in the order of their fields. Raises DatabaseError."""
        table = TABLES[kind]
        columns = [table.c[name] for name in table.c.keys() if name not in ("id", "schema")]  # noqa: SIM118
        query = sa.select(*columns).order_by(*(c for c in columns if not isinstance(c.type, sa.JSON)))
        if run_id is not None:
            query = query.where(table.c.run_id == run_id)
        with self.transaction() as connection:
            return [cast("R", record_of_row(kind, row._asdict())) for row in connection.execute(query)]

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A connection whose changes are kept at the end of the block. Raises DatabaseError for what the server refuses."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise refused(error) from error


def open_database(
    where: str = EMBEDDED, *, folder: str | os.PathLike[str] | None = None, timeout_s: int = TIMEOUT_S
) -> Database:
    """The database, its schema brought up to date.

    `where`: "embedded" (a private server on `folder`, started if it is not up), or the address of a server, such as
    postgresql://user@host/name. Raises ConfigError for what is no such address, or one with a password in it,
    DatabaseError where nobody answers within `timeout_s`, the server refuses, or the schema is of a later version.
    """
    address = None if where == EMBEDDED else checked_address(where)
    server = EmbeddedServer(folder) if address is None else None
    engine = sa.create_engine(
        server.url if server is not None else cast("sa.URL", address),
        connect_args={"connect_timeout": timeout_s},
        pool_pre_ping=True,
    )
    database = Database(engine, server)
    try:
        database.revision = upgrade(engine)
    except BaseException as error:
        database.close()
        if isinstance(error, DBAPIError):
            raise refused(error) from error
        raise
    return database


def inserted(connection: sa.Connection, statement: sa.Insert, rows: Sequence[dict[str, Any]]) -> int:
    """Insert rows; how many were. One statement per row, prepared once: in one for many, reading it takes the time."""
    return connection.execute(statement, rows, execution_options={"preserve_rowcount": True}).rowcount


def checked_address(where: str) -> sa.URL:
    """The address of a server as psycopg is given it.

    A password in it would stand in every file that tells a run's settings: ConfigError, as for what is no address.
    """
    try:
        url = sa.make_url(where)
    except ArgumentError as error:
        raise ConfigError(
            "records.database is no address of a database", "give embedded, or postgresql://user@host/name"
        ) from error
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ConfigError(
            f"records.database is an address of {url.get_backend_name()!r}", "give postgresql://user@host/name"
        )
    if url.password is not None or "password" in url.query:
        raise ConfigError(
            "records.database holds a password, which the files of every run would tell",
            "leave it out: it is read from the variable PGPASSWORD, or from ~/.pgpass",
        )
    return url.set(drivername="postgresql+psycopg")


def refused(error: SQLAlchemyError) -> DatabaseError:
    """What a server said, on one line."""
    said = str(getattr(error, "orig", None) or error).strip().splitlines()
    told = said[0] if said else type(error).__name__
    if isinstance(error, DBAPIError) and (error.connection_invalidated or "connection" in told.lower()):
        return DatabaseError(
            f"the database cannot be reached: {told}", "is the server up, and records.database its address?"
        )
    return DatabaseError(f"the database refuses: {told}", "look at the server's log")
