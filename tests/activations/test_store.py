"""The on-disk store: round trips, resuming, and what happens when the disk or the process goes away."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import load_file

import mechsteer as ms
from mechsteer.activations.files import ShardWriter
from mechsteer.errors import ConfigError, DataError, FileFormatError, ModelMismatchError, StorageError, UnknownSiteError

SITES = [ms.Site(0, "resid_post"), ms.Site(1, "z")]
PROMPTS = [f"{'so ' * (i * 7 % 5)}{i} and {i * i}." for i in range(23)]


@pytest.fixture(scope="module")
def model():
    return ms.load_model(toys.hf_model("llama"), tokenizer=toys.tokenizer())


def save(model, path, prompts=PROMPTS, sites=SITES, **options):
    settings = {"batch_size": 4, "shard_size": 60, "progress": False} | options
    return ms.capture(model, prompts, sites, path=path, **settings)


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    return save(model, tmp_path_factory.mktemp("acts") / "store", labels=list(range(23)))


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip_equals_memory(model, tmp_path, dtype) -> None:
    store = save(model, tmp_path / "acts", dtype=dtype, labels=[f"l{i}" for i in range(23)])
    # the same batches, so equal to the bit: everything in one shard
    one = save(model, tmp_path / "one", dtype=dtype, shard_size=10**6)
    acts = ms.capture(model, PROMPTS, SITES, batch_size=4, dtype=dtype, progress=False)
    assert len(store.bounds) > 5
    assert len(one.bounds) == 2
    for site in SITES:
        loaded = one[site].load()
        assert loaded.values.dtype == dtype
        assert loaded.values.shape[2:] == acts[site].values.shape[2:]
        assert torch.equal(loaded.values, acts[site].values)
        for name in ("tokens", "mask", "lengths"):
            assert torch.equal(getattr(loaded, name), getattr(acts, name))
        torch.testing.assert_close(store[site].load().values.float(), acts[site].values.float(), atol=1e-4, rtol=1e-2)
    assert store.labels == tuple(f"l{i}" for i in range(23))


def test_streams_in_prompt_order(store) -> None:
    whole = store[SITES[0]].load()
    batches = list(store[SITES[0]])
    assert [len(b) for b in batches] == [4, 4, 4, 4, 4, 3]
    assert [label for b in batches for label in b.labels] == list(range(23))
    for i, row in enumerate(r for b in batches for r in b.values):
        n = int(whole.lengths[i])
        assert torch.equal(row[:n], whole.values[i, :n])
    assert torch.equal(store[SITES[0]].pool("mean"), whole.pool("mean"))


def test_random_access(store) -> None:
    acts, whole = store[SITES[1]], store[SITES[1]].load()
    some = acts[[20, 3, 3]]
    assert some.prompt_ids == (20, 3, 3)
    for row, i in enumerate([20, 3, 3]):
        assert torch.equal(some.row(row), whole.row(i))
    assert torch.equal(acts[-1].row(0), whole.row(22))
    with pytest.raises(DataError, match="of 23"):
        acts[23]
    with pytest.raises(UnknownSiteError, match="was not captured"):
        store[ms.Site(2)]


def test_flat_batches_are_the_analysed_tokens(store) -> None:
    acts, expected = store[SITES[0]], store[SITES[0]].load().flat()
    assert len(expected) == store.n_tokens - 23  # one BOS each
    flat = list(acts.flat_batches(50))
    assert torch.equal(torch.cat(flat), expected)
    assert {len(b) for b in flat[:-1]} == {50}
    shuffled = torch.cat(list(acts.flat_batches(50, generator=torch.Generator().manual_seed(0))))
    again = torch.cat(list(acts.flat_batches(50, generator=torch.Generator().manual_seed(0))))
    assert torch.equal(shuffled, again)
    assert not torch.equal(shuffled, expected)
    # the same rows in another order, whatever ties there are: rows as tuples, sorted whole
    assert sorted(map(tuple, shuffled.tolist())) == sorted(map(tuple, expected.tolist()))
    full = list(acts.flat_batches(50, drop_last=True))
    assert len(full) == len(expected) // 50


def test_shards_are_plain_safetensors(store) -> None:
    shard = load_file(store.folder / "shard-00000.safetensors")
    first = slice(0, store.bounds[1])
    assert shard["lengths"].tolist() == store.lengths[first].tolist()
    sites = {"resid_post@0", "z@1"}
    assert set(shard) == sites | {"tokens", "lengths", "mask"} | {f"{site}:digests" for site in sites}
    assert torch.equal(shard["resid_post@0"][shard["mask"]], store[SITES[0]][first].flat())
    assert sorted(p.name for p in store.folder.iterdir())[0] == "manifest.json"


def test_another_model_is_refused(model, store, tmp_path) -> None:
    reopened = ms.open_store(store.folder, model=model)
    assert (reopened.fingerprint, reopened.dtype, reopened.n_prompts) == (store.fingerprint, torch.float32, 23)
    other = ms.load_model(toys.hf_model("llama", seed=1), tokenizer=toys.tokenizer())
    with pytest.raises(ModelMismatchError, match=f"{store.fingerprint}.*{ms.model_fingerprint(other)}"):
        ms.open_store(store.folder, model=other)
    with pytest.raises(ModelMismatchError, match=f"{store.fingerprint}.*{ms.model_fingerprint(other)}"):
        save(other, store.folder)


def test_finished_store_is_opened_again_only_for_the_same_capture(model, store) -> None:
    before = content(store.folder)
    assert save(model, store.folder, labels=list(range(23))).n_prompts == 23
    assert content(store.folder) == before
    for change, name in (
        ({"prompts": PROMPTS[:5], "labels": list(range(5))}, "prompts, shards, lengths, prompt_ids, labels"),
        ({"sites": SITES[:1]}, "sites"),
        ({"dtype": torch.float16}, "dtype"),
        ({"engine": "model"}, "engine"),
        ({"interventions": ms.Intervention(ms.adapters.Static(torch.ones(32)), ms.Site(0))}, "steering"),
    ):
        with pytest.raises(ConfigError, match=f"a capture with other {name}\n"):
            save(model, store.folder, **{"labels": list(range(23))} | change)
    assert content(store.folder) == before


def test_killed_capture_resumes_and_equals_an_undisturbed_one(model, store, tmp_path) -> None:
    folder = tmp_path / "acts"
    child = f"""
        import os, signal, sys
        import mechsteer as ms
        from mechsteer.activations.files import ShardWriter
        import toys
        from activations.test_store import save
        write, left = ShardWriter.write, [5]
        def dying(self, *args):
            write(self, *args)
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        ShardWriter.write = dying
        save(ms.load_model(toys.hf_model("llama"), tokenizer=toys.tokenizer()), {str(folder)!r}, labels=list(range(23)))
    """
    tests = Path(__file__).resolve().parents[1]
    env = os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(child)], env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    finished = {name: data for name, data in content(folder).items() if name.startswith("shard")}
    assert any(name.endswith(".partial") for name in finished)
    whole = {name for name in finished if name.endswith(".safetensors")}
    assert 0 < len(whole) < len(store.bounds) - 1
    with pytest.raises(FileFormatError, match="did not finish"):
        ms.open_store(folder)
    (folder / ".capture.json.1.partial").write_text("{")  # as a kill while the plan is written leaves it
    times = {name: (folder / name).stat().st_mtime_ns for name in whole}
    save(model, folder, labels=list(range(23)))
    assert {name: (folder / name).stat().st_mtime_ns for name in whole} == times  # not computed again
    assert content(folder) == content(store.folder)


def test_unfinished_capture_is_refused_to_other_arguments(model, tmp_path, monkeypatch) -> None:
    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(model, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["capture.json"]
    with pytest.raises(ConfigError, match="a capture with other batch_size\n"):
        save(model, tmp_path, batch_size=5)


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A disk of 256 KiB: a real one where we may mount it, else one that says so."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return

    def fallocate(file, offset, size):
        if sum(p.stat().st_size for p in folder.rglob("*")) + size > 256 * 1024:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    yield folder


def test_full_disk_leaves_no_part_of_a_shard(model, small_disk) -> None:
    prompts = PROMPTS * 20
    with pytest.raises(StorageError, match=r"No space left on device[\s\S]*free some space"):
        save(model, small_disk / "acts", prompts, shard_size=500)
    names = {p.name for p in (small_disk / "acts").iterdir()}
    assert "capture.json" in names
    assert len(names) > 1  # some shards fitted
    assert all(n == "capture.json" or n.endswith(".safetensors") for n in names)
    shards = len(names) - 1
    assert all(load_file(small_disk / "acts" / f"shard-{i:05d}.safetensors") for i in range(shards))


def test_path_that_cannot_be_used(model, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        save(model, tmp_path / "file")
    with pytest.raises(FileFormatError, match="is no activation store"):
        ms.open_store(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_what_is_captured(model, tmp_path) -> None:
    sites = [
        ms.Site(layer, p) for layer in range(3) for p in ("resid_pre", "q", "z", "mlp_post", "mlp_out", "resid_post")
    ]
    rows = torch.randint(0, 250, (300, 60), generator=torch.Generator().manual_seed(0)).tolist()

    def peak(prompts, path) -> int:
        save(model, path, prompts, sites, shard_size=10**6)
        Path("/proc/self/clear_refs").write_text("5")
        save(model, path.with_name("again" + path.name), prompts, sites, shard_size=10**6)
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    few, many = peak(rows[:30], tmp_path / "few"), peak(rows, tmp_path / "many")
    size = sum(p.stat().st_size for p in (tmp_path / "many").iterdir()) // 1024
    assert size > 35_000
    assert many - few < size / 4
