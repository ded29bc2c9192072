"""The schema of a database brought up to date, by the steps in `migrations`; two processes may try at once."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from mechsteer.errors import DatabaseError

FOLDER = Path(__file__).parent / "migrations"
VERSIONS = "mechsteer_schema"  # the table that holds the database's revision
WITHOUT_VECTORS = "0001"  # the last revision that needs no pgvector
_LOCK = 7_316_420_951_184  # of ours alone, among the advisory locks of a database


def revision_of(connection: sa.Connection) -> str | None:
    """The revision that a database is of; None for one without our tables."""
    return MigrationContext.configure(connection, opts={"version_table": VERSIONS}).get_current_revision()


def upgrade(engine: sa.Engine, to: str = "head") -> str:
    """Bring the schema to revision `to`; returns the one that it is of then.

    A server without pgvector stays at the last revision that needs none. Raises DatabaseError for a database that a
    later mechsteer has upgraded.
    """
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("version_locations", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    steps = ScriptDirectory.from_config(config)
    known = [step.revision for step in steps.walk_revisions()][::-1]
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        now = revision_of(connection)
        if now is not None and now not in known:
            raise DatabaseError(
                f"the database is of schema {now}; this version of mechsteer knows schemas up to {known[-1]}",
                "upgrade mechsteer, or give another database",
            )
        target = known[-1] if to == "head" else to
        if known.index(target) > known.index(WITHOUT_VECTORS) and not _has_vectors(connection):
            target = WITHOUT_VECTORS
        if now is None or known.index(now) < known.index(target):
            with EnvironmentContext(config, steps, fn=lambda rev, _: steps._upgrade_revs(target, rev)) as environment:
                environment.configure(connection=connection, version_table=VERSIONS)
                environment.run_migrations()
            now = target
    return now


def _has_vectors(connection: sa.Connection) -> bool:
    query = sa.text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
    return connection.execute(query).first() is not None
