"""An empty database for each test that asks, of the session's one server."""

from __future__ import annotations

import itertools

import pytest


@pytest.fixture(scope="session")
def new_address(server):
    """Makes an empty database, and tells its address."""
    import sqlalchemy as sa

    engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
    numbers = itertools.count()
    with engine.connect() as connection:  # of every database there are hundreds of files, and the disk may be slow
        connection.execute(sa.text("ALTER SYSTEM SET fsync = off"))
        connection.execute(sa.text("SELECT pg_reload_conf()"))

    def make():
        name = f"test_{next(numbers)}"
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        return server.url.replace("+psycopg", "").replace("/postgres?", f"/{name}?")

    yield make
    engine.dispose()


@pytest.fixture
def address(new_address):
    return new_address()


@pytest.fixture
def database(address):
    from mechsteer.records import open_database

    with open_database(address) as database:
        yield database
