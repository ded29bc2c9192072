"""One PostgreSQL for the session, and an empty database of it for each test that asks."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reachable(tmp_path_factory):
    """A folder that the user can enter as whom PostgreSQL runs: for root not below pytest's own, which is root's alone."""
    if os.geteuid():
        yield tmp_path_factory.mktemp("postgres")
        return
    folder = Path(tempfile.mkdtemp(prefix="mechsteer-tests-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def server(reachable):
    from mechsteer.records.embedded import EmbeddedServer

    server = EmbeddedServer(reachable / "shared")
    yield server
    server.close()


@pytest.fixture(scope="session")
def new_address(server):
    """Makes an empty database, and tells its address."""
    import sqlalchemy as sa

    engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
    numbers = itertools.count()

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
