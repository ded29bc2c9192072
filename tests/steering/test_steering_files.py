"""Steering files: bit-equal in another process, refused for another model, never half-written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import load_file, save_file

import mechsteer as ms
from mechsteer.errors import FileFormatError, ModelMismatchError, StorageError
from mechsteer.steering.files import read_header

TOKENS = torch.tensor(toys.prompts(9))


def steering():
    shared = ms.adapters.Static(toys.vector(1))
    scope = ms.TokenScope.generated(include_last_prompt=True) - ms.TokenScope.token_ids([3])
    return ms.Steering(
        [
            ms.Intervention(shared, ms.Site(0.5, "resid_post"), coeff=0.3),
            ms.Intervention(shared, ms.Site(2, "attn_out"), scope=scope, coeff=-1.7),
            ms.Intervention(
                ms.adapters.Static(toys.vector(2)), ms.Site(2, "resid_post"), read=ms.Site(0, "resid_post")
            ),
        ],
        coeff=0.9,
    )


def logits(model, st):
    with torch.no_grad(), ms.steer(model, st, prompt_lengths=[5]):
        return model(TOKENS)


IN_ANOTHER_PROCESS = """
import sys, torch
import mechsteer as ms
model = ms.load_model(sys.argv[1], backend=sys.argv[2])
st = ms.load_steering(sys.argv[3], model)
with torch.no_grad(), ms.steer(model, st, prompt_lengths=[5]):
    out = model(torch.tensor([[int(t) for t in sys.argv[4].split(",")]]))
from safetensors.torch import save_file
save_file({"logits": out}, sys.argv[5])
"""


@pytest.mark.parametrize("backend", ["bridge", "hooked"])
def test_reload_in_a_fresh_process_is_bit_equal(backend, tmp_path):
    folder, path, out = toys.folder("qwen3"), tmp_path / "s.safetensors", tmp_path / "out.safetensors"
    model = ms.load_model(folder, backend=backend)
    ms.save_steering(steering(), path, model, provenance={"licence": "MIT"})
    ids = ",".join(map(str, TOKENS[0].tolist()))
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(folder), backend, str(path), ids, str(out)]
    subprocess.run(command, check=True, capture_output=True)
    assert torch.equal(load_file(out)["logits"], logits(model, steering()))
    loaded = ms.load_steering(path, model)
    assert loaded.interventions[0].adapter is loaded.interventions[1].adapter  # shared before, shared after
    assert loaded.interventions[1].scope == steering().interventions[1].scope
    assert read_header(path)["provenance"] == {"licence": "MIT"}


def test_files_name_the_model_and_no_folder_of_this_machine(tmp_path):
    model = ms.load_model("pocket")
    iv = ms.Intervention(ms.adapters.Static(torch.ones(model.cfg.d_model)), ms.Site(2, "resid_post"))
    path = ms.save_steering(iv, tmp_path / "s", model)
    assert read_header(path)["model_name"] == "pocket"
    assert str(Path(ms.__file__).parent) not in path.read_bytes().decode("latin-1")


def test_same_steering_same_bytes(tmp_path):
    model = toys.shared("llama")
    a, b = (ms.save_steering(steering(), tmp_path / name, model).read_bytes() for name in ("a", "b"))
    assert a == b


def test_another_model_is_refused_with_both_fingerprints(tmp_path):
    model, other = toys.shared("llama"), toys.load("llama", seed=7)
    path = ms.save_steering(steering(), tmp_path / "s", model)
    with pytest.raises(ModelMismatchError) as error:
        ms.load_steering(path, other)
    assert ms.model_fingerprint(model) in str(error.value)
    assert ms.model_fingerprint(other) in str(error.value)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    model = toys.shared("llama")
    path = ms.save_steering(steering(), tmp_path / "s", model)
    whole = path.read_bytes()
    for n in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(FileFormatError, match="truncated"):
            ms.load_steering(path, model)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(FileFormatError, match="not one of mechsteer's"):
        ms.load_steering(path, model)
    for header in ("{", "[1]", "[" * 50_000):
        save_file({"x": torch.zeros(2)}, path, metadata={"mechsteer": header})
        with pytest.raises(FileFormatError, match="the header of"):
            ms.load_steering(path, model)
    path.write_bytes(whole.replace(b'\\"format_version\\": 1', b'\\"format_version\\": 9'))
    with pytest.raises(FileFormatError, match="format version 9"):
        ms.load_steering(path, model)
    with pytest.raises(FileFormatError, match="no steering file"):
        ms.load_steering(tmp_path / "none", model)


def test_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    model = toys.shared("llama")
    path = ms.save_steering(steering(), tmp_path / "s", model)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"No space left(?s:.*)free some space"):
        ms.save_steering(steering(), path, model)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    assert path.read_bytes() == before


def test_really_full_disk(tmp_path):
    """A 64 kB file system, where this machine lets us mount one; the monkeypatched test above is always there."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True
        ).returncode
        == 0
    )
    try:
        filler = small / "filler"
        filler.write_bytes(b"x" * (60_000 if mounted else 0))
        big = ms.Intervention(ms.adapters.Static(torch.randn(50_000)), ms.Site(0, "resid_post"))
        if mounted:
            with pytest.raises(StorageError, match="free some space"):
                ms.save_steering(big, small / "s", toys.shared("llama"))
            assert [p.name for p in small.iterdir()] == ["filler"]
        else:
            assert ms.save_steering(big, small / "s", toys.shared("llama")).stat().st_size > 200_000
    finally:
        if mounted:
            subprocess.run(["umount", str(small)], check=True)
