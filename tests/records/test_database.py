"""The database of records, on a real server: once each, whoever writes; a schema that is brought up to date."""

from __future__ import annotations

import math
import socket
import threading
import time

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from record_toys import RUN, one_of_each, trace

from mechsteer.errors import ConfigError, DatabaseError, FileFormatError, StorageError
from mechsteer.records import (
    KINDS,
    EvaluationRecord,
    MetricsRecord,
    PromptIndex,
    Recorder,
    RunLog,
    RunRecord,
    TraceRecord,
    library,
    migrating,
    open_database,
)
from mechsteer.records.tables import METADATA


def everything(database):
    return [record for kind in KINDS.values() for record in database.read(kind)]


def in_order(records):
    """As `everything` has them: kinds in their order, and each by its fields."""
    kinds = list(KINDS.values())
    return sorted(records, key=lambda record: (kinds.index(type(record)), getattr(record, "stage", "")))


def test_what_went_in_comes_out_equal_and_once(database):
    records = one_of_each()
    assert database.add(records) == len(records)
    assert everything(database) == in_order(records)
    assert database.add([*records, *records, trace(1)]) == 1
    assert database.add([]) == 0
    assert database.read(TraceRecord, RUN) == [trace(0), trace(1)]
    assert database.read(TraceRecord, "of another run") == []


def test_what_postgresql_cannot_hold_is_replaced_there_and_stays_one_record(database):
    nan = MetricsRecord(run_id=RUN, stage="s", metrics={"x": math.nan, "\0": ["\ud83d", math.inf]})
    odd = [trace(0, text="a\0b\ud83dc"), nan]
    number = EvaluationRecord(run_id=RUN, arm="a", role="r", metric="m", n=1, score=math.nan, low=-math.inf)
    assert database.add([*odd, number]) == 3
    assert database.add([*odd, number]) == 0
    assert database.read(TraceRecord)[0].text == "a\ufffdb\ufffdc"
    assert database.read(MetricsRecord)[0].metrics == {"x": None, "\ufffd": ["\ufffd", None]}
    assert database.read(EvaluationRecord) == [number]  # a column of numbers holds NaN


def test_a_log_is_imported_as_often_as_one_likes(database, tmp_path):
    log = RunLog(tmp_path / "records.jsonl")
    log.append(one_of_each())
    assert database.add(log.read().records) == len(one_of_each())
    log.append([trace(1)])
    assert [database.add(log.read().records) for _ in range(2)] == [1, 0]


def test_two_writers_of_the_same_records_in_opposite_orders(address):
    records, counts, failures = [trace(row) for row in range(2000)], [], []
    together = threading.Barrier(2)

    def write(own):
        try:
            with open_database(address) as database:
                together.wait()
                counts.append(database.add(own))
        except DatabaseError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(own,)) for own in (records, records[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(counts) == 2000
    with open_database(address) as database:
        assert database.read(TraceRecord) == records


# the schema


def test_the_migrated_schema_is_the_tables(database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrating.VERSIONS})
        assert compare_metadata(context, METADATA) == []


def test_an_older_schema_is_upgraded_with_what_is_in_it(address):
    engine = sa.create_engine(address.replace("postgresql", "postgresql+psycopg"))
    assert migrating.upgrade(engine, "0001") == "0001"
    assert "prompts" not in sa.inspect(engine).get_table_names()
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO metrics (id, schema, run_id, stage, metrics) VALUES ('a', 1, 'r', 's', '{}')")
        )
    engine.dispose()
    with open_database(address) as database:
        assert database.revision == "0002"
        assert database.read(MetricsRecord) == [MetricsRecord(run_id="r", stage="s", metrics={})]
        assert "prompts" in sa.inspect(database.engine).get_table_names()


def test_several_processes_may_bring_it_up_to_date_at_once(address):
    found = []

    def one():
        with open_database(address) as database:
            found.append(database.revision)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=15)
    assert found == ["0002"] * 4


def test_a_later_schema_is_refused(database, address):
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {migrating.VERSIONS} SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match=r"of schema 9999; this version .* up to 0002(?s:.*)upgrade mechsteer"):
        open_database(address)


def test_a_server_without_pgvector_keeps_runs(address, monkeypatch):
    monkeypatch.setattr(migrating, "_has_vectors", lambda _: False)
    with open_database(address) as database:
        assert database.add(one_of_each()) == len(one_of_each())
        with pytest.raises(DatabaseError, match="no pgvector"):
            PromptIndex(database, "x", lambda texts: texts)


# what goes wrong


def test_addresses():
    for wrong in ("my database", "sqlite:///x.db"):
        with pytest.raises(ConfigError, match=r"records\.database is"):
            open_database(wrong)
    for secret in ("postgresql://me:hunter2@host/x", "postgresql://host/x?password=hunter2"):
        with pytest.raises(ConfigError, match="holds a password") as caught:
            open_database(secret)
        assert "hunter2" not in str(caught.value)


def test_nobody_there_is_told_in_time():
    with pytest.raises(DatabaseError, match="cannot be reached"):
        open_database("postgresql://me@127.0.0.1:9/x")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, and says nothing
        began = time.monotonic()
        with pytest.raises(DatabaseError, match="cannot be reached"):
            open_database(f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/x", timeout_s=2)
        assert time.monotonic() - began < 20


def test_a_database_that_does_not_exist(address):
    with pytest.raises(DatabaseError, match="does not exist"):
        open_database(address.replace("/test_", "/no_test_"))


def test_without_the_extra_the_hint_says_how(monkeypatch):
    monkeypatch.setattr(library, "_why_not", lambda: "No module named 'sqlalchemy'")
    with pytest.raises(ConfigError, match=r"No module named 'sqlalchemy'(?s:.*)pip install 'mechsteer\[records\]'"):
        library.require()


# recorders


def recorder(tmp_path, **options):
    return Recorder(RunLog(tmp_path / "records.jsonl"), name="mine", settings={"seed": 0}, **options)


def test_a_recorder_feeds_both_from_the_same_records(tmp_path, address):
    with recorder(tmp_path, database=address, model_fingerprint=lambda: "f", model="pocket") as mine:
        assert not mine.log.path.exists()  # nothing has happened
        mine.metrics("train", {"loss": math.nan}, seconds=1.5)
        mine.add([trace(0, run_id=mine.run_id)])
    logged = mine.log.read().records
    with open_database(address) as database:
        assert everything(database) == in_order(logged)
    config, run, metrics, _ = logged
    assert isinstance(run, RunRecord)
    assert (run.config_id, run.model_fingerprint) == (config.config_id, "f")
    assert metrics == MetricsRecord(run_id=run.run_id, stage="train", metrics={"loss": None}, seconds=1.5)


def test_a_database_that_is_not_there_stops_nothing(tmp_path):
    said = []
    with recorder(tmp_path, database="postgresql://me@127.0.0.1:9/x", say=said.append) as mine:
        mine.metrics("train", {"loss": 1.0})
    assert len(said) == 1
    assert "cannot be reached" in said[0]
    assert f"mechsteer records import {mine.log.path}" in said[0]
    assert len(mine.log.read().records) == 3


def test_a_database_that_goes_away_is_caught_up_with_later(tmp_path, address, server):
    said = []
    with recorder(tmp_path, database=address, say=said.append) as mine:
        mine.metrics("one", {})
        engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
        name = address.partition("?")[0].rpartition("/")[2]
        with engine.connect() as connection:
            connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            connection.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
            )
        mine.metrics("two", {})
        mine.metrics("three", {})
        assert len(said) == 1
        with engine.connect() as connection:
            connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        engine.dispose()
    assert len(mine.log.read().records) == 5
    with recorder(tmp_path, database=address), open_database(address) as database:
        assert everything(database) == in_order(mine.log.read().records)


def test_a_damaged_log_is_told_and_the_run_goes_on(tmp_path, address):
    said = []
    log = RunLog(tmp_path / "records.jsonl")
    log.append([trace(0), trace(1)])
    log.path.write_bytes(log.path.read_bytes().replace(b'"row": 0', b'"row": 9'))
    with pytest.raises(FileFormatError, match="line 1 is damaged"):
        log.read()
    with recorder(tmp_path, database=address, say=said.append) as mine:
        mine.metrics("one", {})
    assert len(said) == 1
    assert "line 1 is damaged" in said[0]


def test_what_a_full_disk_kept_out_goes_with_the_next(tmp_path, monkeypatch):
    mine = recorder(tmp_path)
    append = RunLog.append

    def full(self, records):
        raise StorageError("the disk is full", "")

    monkeypatch.setattr(RunLog, "append", full)
    with pytest.raises(StorageError, match="full"):
        mine.metrics("one", {})
    monkeypatch.setattr(RunLog, "append", append)
    mine.metrics("two", {})
    stages = [record.stage for record in mine.log.read().records if isinstance(record, MetricsRecord)]
    assert stages == ["one", "two"]
