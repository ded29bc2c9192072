"""The private server: up and down with those who use it, however they end; nothing of the machine is changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from mechsteer.errors import ConfigError, DatabaseError, StorageError
from mechsteer.records import embedded
from mechsteer.records.embedded import EmbeddedServer

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="what is special about root shows as root alone")


def answers(server):
    engine = sa.create_engine(server.url, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            return connection.execute(sa.text("SELECT 1")).scalar_one() == 1
    except sa.exc.OperationalError:
        return False


def pid_of(folder):
    return int((folder / f"data-{embedded.VERSION}" / "postmaster.pid").read_text().splitlines()[0])


USER = """
import sys, time
from mechsteer.records.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
print("up", flush=True)
time.sleep(600)
"""


def test_it_lives_as_long_as_somebody_uses_it(reachable):
    folder = reachable / "lives"
    first = EmbeddedServer(folder)
    second = EmbeddedServer(folder)
    pid = pid_of(folder)
    assert first.url == second.url
    first.close()
    first.close()  # again is nothing
    assert answers(second)
    other = subprocess.Popen([sys.executable, "-c", USER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    with other.stdout:
        assert other.stdout.readline() == "up\n"
        second.close()
        third = EmbeddedServer(folder)  # the other process kept it up
        assert pid_of(folder) == pid
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert answers(third)
    third.close()  # nobody else: the dead hold nothing
    assert not (folder / f"data-{embedded.VERSION}" / "postmaster.pid").exists()
    with pytest.raises(DatabaseError, match="is gone"):
        _ = third.url


def test_after_a_crash_it_recovers_what_was_there(reachable):
    folder = reachable / "crash"
    server = EmbeddedServer(folder)
    engine = sa.create_engine(server.url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE kept AS SELECT 7 AS x"))
    pid = pid_of(folder)
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(") ")[1][:1]:
        time.sleep(0.02)
    again = EmbeddedServer(folder)
    with sa.create_engine(again.url, poolclass=sa.NullPool).connect() as connection:
        assert connection.execute(sa.text("SELECT x FROM kept")).scalar_one() == 7
    server.close()
    again.close()


def test_half_a_database_is_made_again_and_a_long_path_is_no_hindrance(reachable):
    folder = reachable / ("long" * 30)
    half = folder / f"data-{embedded.VERSION}"
    half.mkdir(parents=True)
    (half / "base").write_text("what a killed process left")
    server = EmbeddedServer(folder)
    assert answers(server)
    sockets = Path(server.url.partition("host=")[2])
    assert not sockets.is_relative_to(folder)
    assert sockets.stat().st_mode & 0o077 == 0  # nobody else may enter
    server.close()


def test_nobody_else_may_enter_and_no_network_is_listened_on(server):
    data = server.data
    assert data.stat().st_mode & 0o077 == 0
    with sa.create_engine(server.url, poolclass=sa.NullPool).connect() as connection:
        assert connection.execute(sa.text("SHOW listen_addresses")).scalar_one() == ""


def test_folders_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot keep a database in"):
        EmbeddedServer(tmp_path / "file" / "db")


def test_without_binaries_the_hint_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"no PostgreSQL 18(?s:.*)records\.database=postgresql://"):
        EmbeddedServer(tmp_path / "db")


@needs_root
def test_root_is_told_what_cannot_be_reached_and_no_right_is_changed(tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    before = {path: path.stat().st_mode for path in (private, *private.parents)}
    with pytest.raises(DatabaseError, match=r"for root it runs as (postgres|nobody), who must be able to reach"):
        EmbeddedServer(private / "db")
    assert {path: path.stat().st_mode for path in before} == before
