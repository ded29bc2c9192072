"""Damaged stores: refused when they are read, and made whole by the capture that made them."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
import toys
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mechsteer as ms
from mechsteer.activations import files
from mechsteer.activations.files import ShardWriter
from mechsteer.errors import FileFormatError, StorageError
from mechsteer.files import digest_of, folder_lock, read_record, write_record

SITES = [ms.Site(0, "resid_post"), ms.Site(1, "mlp_out")]
PROMPTS = toys.prompts(5, 9, 3, 8, 6, 7)


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


def save(model, path, **options):
    return ms.capture(model, PROMPTS, SITES, path=path, shard_size=14, progress=False, **options)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = save(model, tmp_path_factory.mktemp("acts") / "store").folder
    assert len(list(folder.glob("shard-*"))) == 3
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "store")


def load_all(folder: Path) -> None:
    for acts in ms.open_store(folder).values():
        acts.load()


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def swap(path: Path) -> None:
    shutil.copy(path.with_name("shard-00002.safetensors"), path)


def without_digests(path: Path) -> None:
    save_file(load_file(path), path)


def other_tensor(path: Path) -> None:
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    tensors["resid_post@0"], tensors["mlp_out@1"] = tensors["mlp_out@1"], tensors["resid_post@0"]
    save_file(tensors, path, metadata)


DAMAGE = {
    "cut": (shorten, "cannot be read"),
    "one bit": (lambda path: flip(path, -40), "of the shard .* is damaged"),
    "another shard": (swap, "another shard"),
    "no digests": (without_digests, "carries no digests"),
    "swapped tensors": (other_tensor, "of the shard .* is damaged"),
    "gone": (Path.unlink, "is missing"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_shard_is_refused_and_made_again_by_the_same_capture(model, whole, folder, name) -> None:
    damage, why = DAMAGE[name]
    damage(folder / "shard-00001.safetensors")
    with pytest.raises(FileFormatError, match=rf"{why}(?s:.*)hint: run the same capture again"):
        load_all(folder)
    times = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    save(model, folder)
    assert content(folder) == content(whole)
    after = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert {n for n in after if after[n] != times.get(n)} == {"shard-00001.safetensors"}  # the others were kept


def test_what_is_not_read_is_not_checked_and_what_is_whole_is_checked_once(folder, monkeypatch) -> None:
    path = folder / "shard-00001.safetensors"
    entry = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])["mlp_out@1"]
    flip(path, 8 + int.from_bytes(path.read_bytes()[:8], "little") + entry["data_offsets"][0])
    names, digest = [], files.tensor_digest
    monkeypatch.setattr(files, "tensor_digest", lambda name, tensor: names.append(name) or digest(name, tensor))
    store = ms.open_store(folder)
    store[SITES[0]].load()
    list(store[SITES[0]].flat_batches(7))
    assert sorted(names) == sorted(["resid_post@0", "tokens", "mask"] * 3)
    with pytest.raises(FileFormatError, match=r"mlp_out@1 of the shard .* is damaged"):
        store[SITES[1]].load()
    with pytest.raises(FileFormatError, match=r"mlp_out@1 of the shard .* is damaged"):  # it was not taken for checked
        list(store[SITES[1]].flat_batches(7))


def test_a_damaged_manifest_is_refused_and_made_again(model, whole, folder) -> None:
    path = folder / "manifest.json"
    text = path.read_text()
    for damaged in (text[:-9], text.replace('"batch_size": 16', '"batch_size": 17'), "{}"):
        path.write_text(damaged)
        with pytest.raises(
            FileFormatError, match=r"manifest\.json (is damaged|carries no digest)(?s:.*)hint: run the same"
        ):
            ms.open_store(folder)
        save(model, folder)
        assert content(folder) == content(whole)


def test_a_folder_whose_manifest_is_lost_is_not_overwritten_by_another_capture(model, folder) -> None:
    (folder / "manifest.json").write_text("{}")
    before = content(folder)
    with pytest.raises(FileFormatError, match="carries no digest"):
        save(model, folder, drop_bos=False)
    assert content(folder) == before


def test_manifests_that_contradict_themselves_are_refused(folder) -> None:
    path = folder / "manifest.json"
    manifest = read_record(path)
    assert manifest is not None
    for change, why in [
        ({"version": 99}, "of version 2"),
        ({"format": "x"}, "of version 2"),
        ({"lengths": [1.5]}, r"lengths\[0\]"),
        ({"lengths": manifest["lengths"][1:]}, "contradict each other"),
        ({"shards": [0, 3, 2, 6]}, "contradict each other"),
        ({"shards": []}, "contradict each other"),
        ({"labels": []}, "contradict each other"),
        ({"sites": []}, "contradict each other"),
        ({"sites": [{"layer": 0, "point": "resid"}]}, "contradict each other"),
        ({"dtype": "int8"}, "contradict each other"),
        ({"more": 1}, "extra fields"),
        ({"drop_bos": not manifest["drop_bos"]}, "of another capture"),
    ]:
        write_record(path, manifest | change)
        with pytest.raises(FileFormatError, match=why):
            ms.open_store(folder)[SITES[0]].load()


def test_a_shard_of_other_sizes_under_digests_that_fit_is_refused(folder) -> None:
    path = folder / "shard-00001.safetensors"
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["mechsteer"])
    tensors = {name: value[:-1].clone() for name, value in load_file(path).items()}
    header["digests"] = {name: files.tensor_digest(name, value) for name, value in tensors.items()}
    save_file(tensors, path, {"mechsteer": json.dumps(header)})
    with pytest.raises(FileFormatError, match=r"is not of .* tokens"):
        ms.open_store(folder)[SITES[0]].load()


def test_the_digests_are_those_of_the_tensors_written(folder) -> None:
    manifest = read_record(folder / "manifest.json")
    for number, path in enumerate(sorted(folder.glob("shard-*"))):
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["mechsteer"])
        assert (header["capture"], header["shard"]) == (digest_of(manifest), number)
        assert header["digests"] == {name: files.tensor_digest(name, value) for name, value in load_file(path).items()}


def test_a_folder_has_one_capture_at_a_time(model, tmp_path, monkeypatch) -> None:
    messages, commit = [], ShardWriter.commit

    def second() -> None:
        try:
            with folder_lock(tmp_path):
                pass
        except StorageError as error:
            messages.append(error.message)

    def slow(self) -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        commit(self)

    monkeypatch.setattr(ShardWriter, "commit", slow)
    save(model, tmp_path)
    assert len(messages) == 3
    assert all(message.startswith(f"{tmp_path} is in use by") for message in messages)
