"""Pieces on workers: every one is computed, whoever dies; what goes wrong is one error with its hint."""

from __future__ import annotations

import json
import os

import pytest

from mechsteer.cluster import Work, library, pool, workers
from mechsteer.cluster.connection import connected
from mechsteer.cluster.fitting import require_shared, require_versions, versions
from mechsteer.cluster.worker import Worker, read_answer
from mechsteer.errors import ClusterError, ConfigError, DataError, MechsteerWarning, StorageError


def each(folder, function, pieces, n_workers=2, **setup):
    """Piece -> answer."""
    work = Work(make=f"cluster_toys:{function}", setup=setup, folder=folder)
    with workers(folder, n_workers) as found:
        return {pieces[number]: answer for number, answer in found.each(work, pieces)}


def test_every_piece_is_computed_once_and_nothing_is_left_in_the_folder(cluster, tmp_path) -> None:
    found = each(tmp_path, "squares", list(range(7)), more=1)
    assert {piece: answer.value for piece, answer in found.items()} == {i: i**2 + 1 for i in range(7)}
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_not_there_keeps_nobody_waiting(cluster, tmp_path) -> None:
    found = each(tmp_path, "squares", [3, 4, 5, 6], n_workers=4, more=0)  # of a cluster of two
    assert sorted(answer.value for answer in found.values()) == [9, 16, 25, 36]


def test_that_no_worker_has_a_place_is_told_and_waited_for(cluster, tmp_path, monkeypatch) -> None:
    said, wait = [], cluster.wait
    full = cluster.remote(Worker).options(num_cpus=2).remote()  # of a cluster of two
    cluster.get(full.__ray_ready__.remote())

    def warned(*told, **_):
        said.append(told)
        cluster.kill(full)

    def never_in_silence(of, **options):
        assert said or "timeout" in options
        return wait(of, **options)

    monkeypatch.setattr(pool.warnings, "warn", warned)
    monkeypatch.setattr(cluster, "wait", never_in_silence)
    with workers(tmp_path, 2) as found:
        found.patience = 0.01
        answers = list(found.each(Work(make="cluster_toys:squares", setup={"more": 0}, folder=tmp_path), [3, 4]))
    assert sorted(answer.value for _, answer in answers) == [9, 16]
    ((text, kind),) = said
    assert kind is MechsteerWarning
    assert "no worker has a place after 0.01 s: each needs 1 processor, the cluster has 0 of 2 processors free" in text


class Arriving:
    """Ray whose one worker is there, or is not."""

    def __init__(self, is_there: bool) -> None:
        self.is_there = is_there

    def wait(self, of, *, num_returns, timeout):
        assert (of, num_returns, timeout) == (["there"], 1, pool.PATIENCE)
        return (of, []) if self.is_there else ([], of)

    def cluster_resources(self):
        return {"CPU": 4.0, "GPU": 2.0}

    def available_resources(self):
        return {"CPU": 3.0, "GPU": 0.5}


def arriving(folder, is_there):
    """A pool whose worker has not begun."""
    return pool.Pool(
        Arriving(is_there), folder, folder, "", 1, _busy={"begun": ("worker", None)}, _there={"begun": "there"}
    )


def test_no_place_is_told_once_with_what_is_needed(tmp_path) -> None:
    found, work = arriving(tmp_path, False), Work(make="", setup={}, folder=tmp_path, n_gpus=1)
    message = (
        "each needs 1 processor and 1 graphics cards, the cluster has 3 of 4 processors free, 0.5 of 2 graphics cards"
    )
    with pytest.warns(MechsteerWarning, match=message):
        found._tell_of_no_place(work)
    found._tell_of_no_place(work)  # warnings are errors


def test_a_worker_that_loads_or_computes_has_a_place(tmp_path) -> None:
    work = Work(make="", setup={}, folder=tmp_path)
    arriving(tmp_path, True)._tell_of_no_place(work)
    found = arriving(tmp_path, False)
    found._busy["computed"] = ("another", 3)
    found._tell_of_no_place(work)


def test_what_a_dead_worker_was_at_is_computed_again_and_ray_prints_nothing(cluster, tmp_path, capfd) -> None:
    found = each(tmp_path / "shared", "dies_once", list(range(5)), n_workers=1, marker=str(tmp_path / "marker"))
    assert (tmp_path / "marker").exists()
    assert [found[i].value for i in range(5)] == list(range(5))
    assert capfd.readouterr() == ("", "")


def test_a_piece_that_kills_is_named_and_the_others_go_on(cluster, tmp_path) -> None:
    found = each(tmp_path, "failing", ["death", "a", "b"], n_workers=1)
    assert [found[piece].value for piece in "ab"] == ["a", "b"]
    with pytest.raises(ClusterError, match=r'3 workers were lost at piece "death"(.|\n)*out of memory') as caught:
        raise found["death"].error
    assert "\n" not in caught.value.message


def test_errors_come_back_as_they_were(cluster, tmp_path) -> None:
    found = each(tmp_path, "failing", ["data", "bug", "memory", "fine"], n_workers=1)
    with pytest.raises(DataError, match="row 3 is malformed\n\nhint: look at row 3"):
        raise found["data"].error
    with pytest.raises(ValueError, match="a bug of ours") as caught:
        raise found["bug"].error
    assert "cluster_toys.py" in "".join(caught.value.__notes__)
    with pytest.raises(ClusterError, match="ran out of memory\n\nhint: fewer workers, or a smaller batch_size"):
        raise found["memory"].error
    assert found["fine"].value == "fine"


def test_what_no_worker_can_make_is_raised(cluster, tmp_path) -> None:
    with pytest.raises(DataError, match="nothing can be made of this"):
        each(tmp_path, "unmakeable", [1])
    with pytest.raises(ClusterError, match=r"cannot find cluster_toys:nothing(.|\n)*install the same mechsteer"):
        each(tmp_path, "nothing", [1])
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_cannot_begin_is_told_while_the_driver_helps(cluster, tmp_path) -> None:
    done: list[int] = []
    with workers(tmp_path, 1) as found:

        def meanwhile(piece, look) -> None:
            done.append(piece)
            if len(done) == 2:
                cluster.wait(list(found._busy), num_returns=1)
            look()

        work = Work(make="cluster_toys:unmakeable", setup={}, folder=tmp_path)
        with pytest.raises(DataError, match="nothing can be made of this"):
            list(found.each(work, list(range(9)), meanwhile=meanwhile))
    assert done == [0, 1]


def test_another_installation_is_refused_and_named(cluster, tmp_path, monkeypatch) -> None:
    others = versions() | {"torch": "0.1"}
    monkeypatch.setattr(pool, "versions", lambda: others)
    with pytest.raises(ClusterError, match=r"another installation than its driver: torch \S+ for 0\.1\n"):
        each(tmp_path, "squares", [1], more=0)


def test_another_program_is_another_installation() -> None:
    require_versions(versions())
    with pytest.raises(ClusterError, match=r"mechsteer \w{12} for 0"):
        require_versions(versions() | {"mechsteer": "0"})


def test_a_folder_that_is_not_shared_is_refused(cluster, tmp_path) -> None:
    with pytest.raises(StorageError, match=r"is not shared: the worker on \S+ sees nothing of its driver's there"):
        require_shared(tmp_path, "mine", patience=1)
    with workers(tmp_path, 1) as found:
        found.token = "mine"
        with pytest.raises(StorageError, match="sees another driver's files there"):
            list(found.each(Work(make="cluster_toys:squares", setup={"more": 0}, folder=tmp_path), [1]))


def test_a_worker_whose_driver_has_gone_writes_nothing(tmp_path) -> None:
    worker = Worker()
    worker._folder, worker._token, worker._compute = tmp_path, "gone", lambda piece: piece
    assert isinstance(read_answer(worker.compute("1")).error, StorageError)


def test_a_worker_elsewhere_says_so(tmp_path) -> None:
    told = {"cwd": str(tmp_path / "nowhere")}
    with pytest.raises(StorageError, match="nowhere, where the driver runs, is not there on a worker"):
        raise read_answer(Worker().begin(json.dumps(told))).error or AssertionError


def test_wrong_calls(cluster, tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="0 workers"), workers(tmp_path, 0):
        pass
    with (
        pytest.raises(ClusterError, match="a worker needs 1 graphics cards, the cluster has 0"),
        connected(1, n_gpus=1),
    ):
        pass
    monkeypatch.setattr(library, "is_installed", lambda: False)
    with pytest.raises(ClusterError, match=r"need Ray, which is not installed\n\nhint: pip install 'mechsteer\[ray\]'"):
        each(tmp_path, "squares", [1], more=0)
    assert list(tmp_path.iterdir()) == []


class Other:
    """Ray that finds a cluster of another version."""

    def is_initialized(self):
        return False

    def init(self, **options):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9\n    Python: 3.9")


def test_a_cluster_of_ours_is_of_this_machine_alone(cluster) -> None:
    (node,) = cluster.nodes()
    assert node["NodeManagerAddress"] == "127.0.0.1"
    assert not [name for name in os.environ if name.startswith("RAY_") and "CLUSTER" in name]


def test_a_cluster_of_another_version_is_one_message(monkeypatch) -> None:
    monkeypatch.setattr(library, "ray", Other)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    message = r"cannot join the cluster at 10.0.0.1:6379: Version mismatch: .*Ray: 2.9 Python: 3.9\n\nhint: start it"
    with pytest.raises(ClusterError, match=message), connected(1):
        pass
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(ClusterError, match="no cluster could be started on this machine: Version"), connected(1):
        pass
