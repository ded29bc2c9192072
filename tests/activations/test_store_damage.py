"""Damaged stores: refused when they are read, and made whole by the capture that made them."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
import xxhash
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mechsteer as ms
from mechsteer.activations.files import PIECE, Place, ShardWriter
from mechsteer.activations.shards import open_shard
from mechsteer.errors import FileFormatError, StorageError
from mechsteer.files import digest_of, folder_lock, read_record, write_record
from mechsteer.files.tensors import tensor_digest

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


def digests(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Of a shard with these tensors: a site's is taken over the table of its prompts' digests."""
    taken = {name: tensor_digest(name, tensors[name]) for name in ("tokens", "lengths", "mask")}
    for site in map(str, SITES):
        table = tensors[f"{site}:digests"].numpy().tobytes()
        described = json.dumps([site, str(tensors[site].dtype), list(tensors[site].shape)]).encode()
        taken[site] = xxhash.xxh3_128_hexdigest(described + table)
    return taken


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


def test_what_is_not_read_is_not_checked_and_what_is_read_always_is(whole, folder) -> None:
    path = folder / "shard-00001.safetensors"
    entry = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])["mlp_out@1"]
    at = 8 + int.from_bytes(path.read_bytes()[:8], "little") + entry["data_offsets"][0]
    flip(path, at)
    store = ms.open_store(folder)
    store[SITES[0]].load()
    list(store[SITES[0]].flat_batches(7))
    prompt = int(store.bounds[1])  # the first of the shard
    others = [i for i in range(len(PROMPTS)) if i != prompt]
    assert torch.equal(store[SITES[1]][others].values, ms.open_store(whole)[SITES[1]][others].values)
    for read in (lambda acts: acts.load(), lambda acts: acts[prompt], lambda acts: list(acts.flat_batches(7))):
        with pytest.raises(FileFormatError, match=r"mlp_out@1 of the shard .* is damaged \(at its prompt 0\)"):
            read(store[SITES[1]])
    flip(path, at)
    store[SITES[1]].load()
    flip(path, at)
    with pytest.raises(FileFormatError, match="is damaged"):  # also what was read before
        store[SITES[1]].load()


READS = {
    "batches": lambda acts: acts.batches(2),
    "flat_batches": lambda acts: acts.flat_batches(7),
    "shuffled": lambda acts: acts.flat_batches(7, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("how", READS)
def test_any_byte_that_is_flipped_is_refused_before_what_it_belongs_to_is_handed_out(whole, folder, how) -> None:
    expected = list(READS[how](ms.open_store(whole)[SITES[1]]))
    assert [bits(a) for a in READS[how](ms.open_store(folder)[SITES[1]])] == [bits(a) for a in expected]
    path = folder / "shard-00001.safetensors"
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    for name in ("mlp_out@1", "mlp_out@1:digests", "mask", *(["tokens"] if how == "batches" else [])):
        begin, end = entries[name]["data_offsets"]
        for at in {*range(begin, end, 61), *range(begin, min(end, begin + 32)), end - 1}:
            flip(path, start + at)
            handed = []
            with pytest.raises(FileFormatError, match=r"of the shard .* is damaged"):
                handed.extend(READS[how](ms.open_store(folder)[SITES[1]]))
            assert [bits(a) for a in handed] == [bits(a) for a in expected[: len(handed)]]
            path.write_bytes(data)


def bits(found: ms.Activations | torch.Tensor) -> list[bytes]:
    tensors = [found] if isinstance(found, torch.Tensor) else [found.values, found.tokens, found.mask, found.lengths]
    return [tensor.numpy().tobytes() for tensor in tensors]


def test_every_piece_of_a_long_prompt_is_checked(tmp_path) -> None:
    lengths = np.array([3, PIECE // 32 * 2 + 5, 1])  # 16 values of 4 bytes a token: four pieces and a bit
    n, place = int(lengths.sum()), Place(path=tmp_path / "shard", capture="c", number=0, n_tokens=int(lengths.sum()))
    values = torch.randn(n, 16, generator=torch.Generator().manual_seed(0))
    writer = ShardWriter(place, np.zeros(n, int), lengths, np.ones(n, bool), torch.float32)
    writer.write({"resid_post@0": values}, [0, 1, 2], lengths.tolist())
    writer.commit()
    data = place.path.read_bytes()
    start = data.index(values.numpy().tobytes())

    def read() -> list[torch.Tensor]:
        with open_shard(place) as shard:
            shard.check(["resid_post@0"])
            return [part.clone() for part in shard.site("resid_post@0").prompts(lengths.tolist())]

    assert torch.equal(torch.cat(read()), values)
    long = 3 * 64, int(lengths[:2].sum()) * 64
    assert long[1] - long[0] > 4 * PIECE
    for at in (*range(*long, PIECE // 2), *(long[0] + i * PIECE - 1 for i in range(1, 5)), long[1] - 1):
        flip(place.path, start + at)
        with pytest.raises(FileFormatError, match=r"resid_post@0 of the shard .* is damaged \(at its prompt 1\)"):
            read()
        flip(place.path, start + at)
    pieces = [values[3:-1].numpy().tobytes()[i : i + PIECE] for i in range(0, long[1] - long[0], PIECE)]
    digest = xxhash.xxh3_128_digest(b"".join(xxhash.xxh3_128_digest(piece) for piece in pieces))
    assert load_file(place.path)["resid_post@0:digests"][1].numpy().tobytes() == digest
    place.path.write_bytes(data[:-1])
    with pytest.raises(FileFormatError, match="cannot be read: mask does not lie in it"):
        read()
    place.path.write_bytes(data + b"0")
    with pytest.raises(FileFormatError, match="cannot be read: it is cut, or more was added"):
        read()


def test_what_is_cut_while_it_is_open_is_an_error_and_no_crash(folder) -> None:
    store = ms.open_store(folder)
    with store.shard(1) as shard:
        site = shard.site("mlp_out@1")
        (folder / "shard-00001.safetensors").write_bytes(b"")
        with pytest.raises(FileFormatError, match="cannot be read: it is cut"):
            next(site.prompts(store.lengths[store.bounds[1] : store.bounds[2]].tolist()))


def test_no_file_stays_open_when_reading_ends_early(folder) -> None:
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else None
    flat = ms.open_store(folder)[SITES[0]].flat_batches(1)
    batches = ms.open_store(folder)[SITES[0]].batches(1)
    next(flat)
    next(batches)
    if before is not None:
        assert len(list(Path("/proc/self/fd").iterdir())) == before


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
        ({"version": 2}, "of version 3, but of version 2(?s:.*)hint: capture again with this version"),
        ({"version": 99}, "of version 3, but of version 99"),
        ({"format": "x"}, "of version 3, but of another format"),
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
    header["digests"] = digests(tensors)
    save_file(tensors, path, {"mechsteer": json.dumps(header)})
    with pytest.raises(FileFormatError, match=r"is not of .* tokens"):
        ms.open_store(folder)[SITES[0]].load()


def test_the_digests_are_those_of_the_tensors_written(folder) -> None:
    manifest = read_record(folder / "manifest.json")
    for number, path in enumerate(sorted(folder.glob("shard-*"))):
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["mechsteer"])
        assert (header["capture"], header["shard"]) == (digest_of(manifest), number)
        tensors = load_file(path)
        assert header["digests"] == digests(tensors)
        ends = tensors["lengths"].cumsum(0).tolist()
        for site in map(str, SITES):
            rows = [tensors[site][a:b].numpy().tobytes() for a, b in itertools.pairwise([0, *ends])]
            # of the pieces' digests: here every prompt is one piece
            taken = [xxhash.xxh3_128_digest(xxhash.xxh3_128_digest(row)) for row in rows]
            assert tensors[f"{site}:digests"].numpy().tobytes() == b"".join(taken)


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
