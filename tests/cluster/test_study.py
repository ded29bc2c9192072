"""A study whose pieces are on Ray: the folder is that of one in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy_adapters
from cluster_toys import in_two_steps

from mechsteer.adapters import registered_modules
from mechsteer.cluster import Work, workers
from mechsteer.errors import FileFormatError
from mechsteer.files import folder_lock
from mechsteer.runtime.followed import Followed
from mechsteer.runtime.threads import elsewhere
from mechsteer.studies import follow
from mechsteer.studies.study import opened, stage

FEW = {
    **{"traces.n_problems": 12, "traces.n_dev": 12, "batch_size": 12},
    **{"adapter.epochs": 1, "adapter.seeds": 2, "evaluate.n_problems": 12},
}
OWN = ("config.json", "timings.json", "records.jsonl")  # settings that say where pieces go, and times


def made(folder: Path, until: str, **more) -> dict[str, bytes]:
    """Every file of a run up to a stage, but for those that say how it went."""
    with opened({**FEW, "out": str(folder), **more}) as run:
        stage(run, until)
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in OWN]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_stages_by_workers_leave_the_same_bytes(cluster, tmp_path, monkeypatch) -> None:
    alone = made(tmp_path / "alone", "train")
    asked: list[int] = []
    monkeypatch.setattr(
        Followed,
        "__call__",
        lambda self, f, items, do=Followed.__call__: asked.append(len(items)) or do(self, f, items),
    )
    spread = made(tmp_path / "spread", "train", launcher="ray", workers=2)
    assert spread == alone
    assert {"adapter.safetensors", "stages/train.json", "traces-train.jsonl"} <= spread.keys()
    assert asked[0] > 1  # batches of training problems; places and seeds of the adapter after them
    assert len(asked) > 3
    assert cluster.is_initialized()  # it was not ours to end


def test_a_worker_that_dies_costs_its_piece(cluster, tmp_path) -> None:
    steps, alone, marker = tmp_path / "steps", tmp_path / "alone", tmp_path / "marker"
    steps.mkdir(), alone.mkdir()
    work = Work(make="cluster_toys:steps_maker", setup={"steps": str(steps), "marker": str(marker)}, folder=tmp_path)
    with folder_lock(tmp_path), workers(tmp_path, 1) as pool, elsewhere(Followed(pool, work)):
        found = in_two_steps(steps)
    assert found == in_two_steps(alone)
    assert marker.exists()
    assert sorted((steps / "computed").read_text().split()) == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_a_folder_that_is_another_runs_is_refused(tmp_path) -> None:
    setup = {"folder": str(tmp_path), "stage": "traces", "checkpoints": "traces-0"}
    with pytest.raises(FileFormatError, match="holds no run"):
        follow.piece_maker(setup)
    made(tmp_path, "traces")
    with pytest.raises(FileFormatError, match="holds another run of traces than the driver's"):
        follow.piece_maker(setup)


def test_modules_of_adapters_of_ones_own_come_along() -> None:
    assert toy_adapters.__name__ in registered_modules()
    assert not [name for name in registered_modules() if name.startswith("mechsteer.")]
