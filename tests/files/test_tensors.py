"""Tensor files: equal back to the bit, plain safetensors to others, refused when anything of them has changed."""

import errno
import os

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from mechsteer.errors import FileFormatError, StorageError
from mechsteer.files import tensors as module
from mechsteer.files.tensors import read_tensors, write_tensors

TENSORS = {
    "floats": torch.tensor([[1.0, -0.0], [float("nan"), float("inf")]]),
    "half": torch.randn(3, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "bits": torch.tensor([True, False]),
    "scalar": torch.tensor(7),
    "nothing": torch.empty(0, 4),
}
HEADER = {"z": [1, 2.0, float("inf")], "a": {"text": "ü"}}


def same(a, b):
    return {n: (t.dtype, t.shape) for n, t in a.items()} == {n: (t.dtype, t.shape) for n, t in b.items()} and all(
        torch.equal(t.reshape(-1).view(torch.uint8), b[n].reshape(-1).view(torch.uint8)) for n, t in a.items()
    )


def test_round_trip(tmp_path):
    path = write_tensors(tmp_path / "deep" / "t", TENSORS, HEADER, kind="thing")
    found = read_tensors(path, kind="thing")
    assert found is not None
    assert same(found[0], TENSORS)
    assert found[1] == HEADER
    assert list(found[1]) == list(HEADER)
    assert same(load_file(path), TENSORS)
    assert path.read_bytes() == write_tensors(tmp_path / "again", TENSORS, HEADER, kind="thing").read_bytes()
    assert read_tensors(tmp_path / "none", kind="thing") is None
    found[0]["floats"].zero_()  # a copy, not the file
    assert same(load_file(path), TENSORS)


def test_views_of_one_memory_are_saved(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    found = read_tensors(
        write_tensors(tmp_path / "t", {"a": base, "b": base.T, "c": base[0]}, {}, kind="thing"), kind="thing"
    )
    assert found is not None
    assert same(found[0], {"a": base, "b": base.T, "c": base[0]})


def rewritten(path, tensors=None, **metadata):
    with safe_open(path, "pt") as file:
        kept = dict(file.metadata())
    save_file(tensors or load_file(path), path, {**kept, **metadata})


@pytest.mark.parametrize(
    "change",
    [
        {"bits": torch.tensor([True, True])},
        {"scalar": torch.tensor(7.0)},
        {"scalar": torch.tensor([7])},
        {"nothing": torch.empty(4, 0)},
        {"more": torch.zeros(1)},
        {"floats": torch.tensor([[1.0, 0.0], [float("nan"), float("inf")]])},
    ],
)
def test_changed_tensors_in_a_whole_container_are_refused(tmp_path, change):
    path = write_tensors(tmp_path / "t", TENSORS, HEADER, kind="thing")
    rewritten(path, TENSORS | change)
    with pytest.raises(FileFormatError, match=r"the thing .* is damaged(?s:.*)hint: make it again"):
        read_tensors(path, kind="thing", hint="make it again")


def test_changed_headers_in_a_whole_container_are_refused(tmp_path):
    path = write_tensors(tmp_path / "t", TENSORS, HEADER, kind="thing")
    with safe_open(path, "pt") as file:
        text = file.metadata()["mechsteer"]
    for new, why in [
        (text.replace("2.0", "2"), "is damaged"),
        (text.replace('"z"', '"y"'), "is damaged"),
        (text.replace('"digest"', '"dugest"'), "carries no digest"),
        ("{", "the header of .* is damaged"),
        ("[]", "the header of .* is a list"),
        ("[" * 100_000, "the header of .* is damaged"),
    ]:
        rewritten(path, mechsteer=new)
        with pytest.raises(FileFormatError, match=why):
            read_tensors(path, kind="thing")
    save_file(TENSORS, path)
    with pytest.raises(FileFormatError, match="is a safetensors file, but not a thing of mechsteer's"):
        read_tensors(path, kind="thing")


def test_another_kind_of_file_is_refused_by_name(tmp_path):
    path = write_tensors(tmp_path / "t", TENSORS, HEADER, kind="checkpoint")
    with pytest.raises(FileFormatError, match="t is a checkpoint, not a thing"):
        read_tensors(path, kind="thing")


def test_truncated_files_are_refused(tmp_path):
    path = write_tensors(tmp_path / "t", TENSORS, HEADER, kind="thing")
    whole = path.read_bytes()
    for n in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(FileFormatError, match="truncated or no safetensors"):
            read_tensors(path, kind="thing")
    with pytest.raises(StorageError, match="cannot read"):
        read_tensors(tmp_path, kind="thing")


def no_space(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half(tensors, path, metadata):
    """As safetensors does where the disk fills up while it writes."""
    path.write_bytes(b"half")
    raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("one_writer", [False, True])
@pytest.mark.parametrize(("place", "name", "refusal"), [(os, "fsync", no_space), (module, "save_file", half)])
def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, place, name, refusal, one_writer):
    path = write_tensors(tmp_path / "t", TENSORS, HEADER, kind="thing")
    monkeypatch.setattr(place, name, refusal)
    with pytest.raises(StorageError, match=r"No space left on device(?s:.*)hint: free some space"):
        write_tensors(path, {}, {}, kind="thing", one_writer=one_writer)
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    found = read_tensors(path, kind="thing")
    assert found is not None
    assert found[1] == HEADER


def test_others_may_read_it(tmp_path):
    path = write_tensors(tmp_path / "one.safetensors", TENSORS, HEADER, kind="steering file")
    assert path.stat().st_mode & 0o777 == 0o644
