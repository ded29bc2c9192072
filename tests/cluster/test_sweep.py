"""Sweeps on Ray: the table and the folders of a sweep in this process."""

from __future__ import annotations

import json
import threading

import pytest

from mechsteer.errors import ClusterError, ConfigError, StorageError
from mechsteer.files import folder_lock
from mechsteer.studies import sweep as room
from mechsteer.studies.sweep import of_run, sweep

FEW = ("traces.n_problems=4", "traces.n_dev=4", "traces.n_samples=1", "traces.n_dev_samples=1", "max_new_tokens=8")
SWEPT = ("model=pocket,nowhere", *FEW)


def swept(root, *more, **options):
    return sweep([*SWEPT, f"out={root}", *more], until="traces", **options)


def test_the_table_and_the_runs_are_those_of_one_process(cluster, tmp_path) -> None:
    alone, said = swept(tmp_path / "alone"), []
    spread = swept(tmp_path / "spread", "launcher=ray", "workers=1", say=said.append)
    assert spread.csv.read_bytes() == alone.csv.read_bytes()
    assert spread.failed == alone.failed == ("model=nowhere",)
    assert next(row["status"] for row in spread.rows) == "done"
    assert any(text.startswith("model=nowhere failed: ") for text in said)
    for name in ("stages/traces.json", "traces-train.jsonl", "config.json"):
        one, other = (root / "model=pocket" / name for root in (tmp_path / "alone", tmp_path / "spread"))
        assert one.read_bytes() == other.read_bytes()
    assert json.loads(other.read_text())["settings"]["launcher"] == "local"
    made = (tmp_path / "spread" / "model=pocket" / "stages" / "traces.json").stat().st_mtime_ns
    swept(tmp_path / "spread")  # in this process: what is done is read back
    assert (tmp_path / "spread" / "model=pocket" / "stages" / "traces.json").stat().st_mtime_ns == made


def test_a_run_that_kills_its_workers_is_named(cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(room, "CELL", "cluster_toys:cells_that_die")
    table = swept(tmp_path, "launcher=ray", "workers=1")
    assert [row["status"][:27] for row in table.rows] == ["done", "failed: 3 workers were lost"]


def test_a_bug_of_ours_is_raised(cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(room, "CELL", "cluster_toys:cells_with_a_bug")
    with pytest.raises(ValueError, match="a bug of ours"):
        swept(tmp_path, "launcher=ray", "workers=1")


def test_wrong_calls(cluster, tmp_path) -> None:
    with pytest.raises(ConfigError, match="launcher says how all runs go, and is swept"):
        sweep(["launcher=ray,local", f"out={tmp_path}"])
    with pytest.raises(ConfigError, match="workers is 0"):
        swept(tmp_path, "launcher=ray", "workers=0")
    with pytest.raises(ClusterError, match="a worker needs 1 graphics cards, the cluster has 0"):
        swept(tmp_path, "launcher=ray", "gpus=1")
    assert not list(tmp_path.iterdir())


def test_two_drivers_on_one_folder(tmp_path) -> None:
    found = []

    def second():
        with pytest.raises(StorageError, match="is in use by another thread"):
            swept(tmp_path, "launcher=ray")
        found.append(1)

    with folder_lock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert found


def test_a_card_is_whichever_the_worker_was_given() -> None:
    launch = {"workers": 2, "launcher": "ray", "gpus": 0.5}
    found = of_run({"device": "cuda:1", "seed": 3, **launch}, launch, "x")
    assert found == {"device": "cuda", "seed": 3, "out": "x"}
    alone = {"workers": 2, "launcher": "local", "gpus": 0.0}
    assert of_run({"device": "cuda:1", **alone}, alone, "x") == {"device": "cuda:1", "workers": 2, "out": "x"}
