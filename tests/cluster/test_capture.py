"""Captures by workers: the same bytes as without, whoever is killed."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import toys

import mechsteer as ms
from mechsteer.activations import by_workers
from mechsteer.cluster import Pool, Work
from mechsteer.errors import ConfigError, ModelLoadError, ModelMismatchError, NonFiniteError

PROMPTS = toys.prompts(5, 9, 3, 8, 6, 7, 4, 9, 5, 8)
SITES = [ms.Site(1, "resid_post"), ms.Site(0, "mlp_out")]


@functools.cache
def model():
    return ms.load_model(toys.folder("llama"))


def save(path, of=None, **options):
    options = {"batch_size": 2, "shard_size": 20} | options
    return ms.capture(of or model(), PROMPTS, SITES, path=path, progress=False, **options)


@pytest.fixture(autouse=True)
def _workers_write(monkeypatch):
    """Here and in processes of their own, by `by_itself`: these captures are over before a worker has begun."""
    monkeypatch.setattr(by_workers, "HELPS", False)


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def by_itself(script: str) -> subprocess.CompletedProcess:
    """A script, in a process of its own that has ended."""
    tests = Path(__file__).resolve().parents[1]
    env = os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    alone = "from mechsteer.activations import by_workers\nby_workers.HELPS = False\n"
    return subprocess.run(
        [sys.executable, "-c", alone + textwrap.dedent(script)], env=env, check=False, capture_output=True, text=True
    )


def steering():
    scope = ms.TokenScope.last_prompt()
    return [
        ms.Intervention(ms.adapters.Static(toys.vector()), 0, scope=scope, coeff=0.5),
        ms.Intervention(ms.adapters.Static(toys.vector(2)), ms.Site(1, "mlp_out")),
    ]


def test_the_store_is_the_same_to_the_byte(cluster, tmp_path) -> None:
    alone = save(tmp_path / "alone", labels=list(range(10)))
    assert len(alone.bounds) > 4
    spread = save(tmp_path / "spread", labels=list(range(10)), workers=2)  # one worker: below
    assert content(spread.folder) == content(alone.folder)
    assert cluster.is_initialized()  # it was not ours to end


def test_steering_comes_along(cluster, tmp_path) -> None:
    options = {"interventions": steering(), "prompt_lengths": [2] * 10}
    alone, spread = save(tmp_path / "alone", **options), save(tmp_path / "spread", **options, workers=1)
    assert content(spread.folder) == content(alone.folder)
    plain = save(tmp_path / "plain")
    assert content(plain.folder)["shard-00000.safetensors"] != content(alone.folder)["shard-00000.safetensors"]


def test_steering_around_it_and_a_model_made_in_memory_come_along(cluster, tmp_path) -> None:
    first, second = steering()
    made = toys.shared("qwen3")
    with ms.steer(made, first):
        inside = save(tmp_path / "inside", made, interventions=second, workers=1)
        assert content(inside.folder) == content(save(tmp_path / "alone", made, interventions=second).folder)
    assert inside.engine == "model"


def test_the_driver_writes_shards_until_workers_have_begun(cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(by_workers, "HELPS", True)
    written, looks = [], []
    write, look = by_workers.write_shard, Pool._look

    def here(place, *told, **named):
        written.append(place.number)
        write(place, *told, **named)

    def looked(self, pieces, left):
        if len(written) == 2:  # two shards are written here: then this waits until somebody has begun
            cluster.wait(list(self._busy), num_returns=1)
        looks.append(len(left))
        look(self, pieces, left)

    monkeypatch.setattr(by_workers, "write_shard", here)
    monkeypatch.setattr(Pool, "_look", looked)
    options = {"interventions": steering(), "prompt_lengths": [2] * 10}
    spread = save(tmp_path / "spread", **options, workers=1)
    assert content(spread.folder) == content(save(tmp_path / "alone", **options).folder)
    assert written == [0, 1]  # and the others elsewhere
    assert len(looks) > len(written)  # between batches too


def test_a_model_that_workers_cannot_have_is_refused(cluster, tmp_path) -> None:
    with pytest.raises(ModelLoadError, match=r"made in memory(.|\n)*load it with mechsteer.load_model from a folder"):
        save(tmp_path / "a", toys.shared("gpt2", "compatibility"), workers=1)
    assert list(content(tmp_path / "a")) == ["capture.json"]
    changed = ms.load_model(toys.folder("llama"))
    changed.embed.weight.data.mul_(2)
    with pytest.raises(ModelMismatchError, match="what a worker is to compute"):
        save(tmp_path / "b", changed, workers=1)


def test_a_worker_killed_within_a_shard_costs_that_shard(cluster, tmp_path, monkeypatch) -> None:
    def work(**told):
        return Work(**told | {"make": "cluster_toys:shards_of_one_that_dies"})

    monkeypatch.setattr(by_workers, "Work", work)
    spread = save(tmp_path / "spread", workers=1)
    assert (tmp_path / "marker").exists()
    assert content(spread.folder) == content(save(tmp_path / "alone").folder)


def test_a_killed_driver_goes_on_where_it_was(cluster, tmp_path) -> None:
    folder = tmp_path / "spread"
    child = f"""
        import os, signal
        from mechsteer.activations import by_workers
        from cluster.test_capture import save
        told = by_workers.shards_by_workers
        def dying(*given):
            told(*given[:-1], lambda n: os.kill(os.getpid(), signal.SIGKILL))
        import sys
        sys.modules["mechsteer.activations.capture"].shards_by_workers = dying
        save({str(folder)!r}, workers=1)
    """
    done = by_itself(child)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert {"capture.json", ".workers", "shard-00000.safetensors"} <= {path.name for path in folder.iterdir()}
    before = (folder / "shard-00000.safetensors").stat().st_mtime_ns
    save(folder)
    assert (folder / "shard-00000.safetensors").stat().st_mtime_ns == before
    assert content(folder) == content(save(tmp_path / "alone").folder)


def test_a_second_driver_is_refused_and_the_first_goes_on(cluster, tmp_path, monkeypatch) -> None:
    folder, second = tmp_path / "spread", []
    room = sys.modules["mechsteer.activations.capture"]
    first = room.shards_by_workers

    def meanwhile(*told):
        *told, done = told

        def then(n):
            if not second:
                second.append(by_itself(f"from cluster.test_capture import save\nsave({str(folder)!r}, workers=1)"))
                assert {".lock", ".workers"} <= {path.name for path in folder.iterdir()}
            done(n)

        first(*told, then)

    monkeypatch.setattr(room, "shards_by_workers", meanwhile)
    save(folder, workers=1)
    assert second[0].returncode == 1
    message = rf"StorageError: {folder} is in use by process {os.getpid()} on .*\n\nhint: wait until it has ended.*\n$"
    assert len(re.findall(message, second[0].stderr)) == second[0].stderr.count("Error: ") == 1
    assert second[0].stdout == ""
    assert content(folder) == content(save(tmp_path / "alone").folder)


def test_an_error_of_a_worker_leaves_the_plan_alone(cluster, tmp_path) -> None:
    much = ms.Intervention(ms.adapters.Static(1e6 * toys.vector()), 0)
    with pytest.raises(NonFiniteError, match=r"NaN or infinity at resid_post@1 in prompt \d"):
        save(tmp_path / "a", interventions=much, dtype="float16", workers=1)
    assert list(content(tmp_path / "a")) == ["capture.json"]


def test_wrong_calls(tmp_path) -> None:
    with pytest.raises(ConfigError, match="workers write to disk, and there is no path"):
        ms.capture(model(), PROMPTS, SITES, workers=2)
    with pytest.raises(ConfigError, match="workers is 0"):
        save(tmp_path / "a", workers=0)
    assert not (tmp_path / "a").exists()
