"""Steering files: bit-equal in another process, refused for another model, never half-written."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import load_file, save_file

import mechsteer as ms
from mechsteer.errors import ConfigError, FileFormatError, ModelMismatchError, StorageError
from mechsteer.files.tensors import read_tensors, write_tensors
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
    assert read_header(path).provenance == {"licence": "MIT"}


def test_files_name_the_model_and_no_folder_of_this_machine(tmp_path):
    model = ms.load_model("pocket")
    iv = ms.Intervention(ms.adapters.Static(torch.ones(model.cfg.d_model)), ms.Site(2, "resid_post"))
    path = Path(ms.save_steering(iv, tmp_path / "s", model))
    assert read_header(path).model_name == "pocket"
    assert str(Path(ms.__file__).parent) not in path.read_bytes().decode("latin-1")


def test_same_steering_same_bytes(tmp_path):
    model = toys.shared("llama")
    a, b = (Path(ms.save_steering(steering(), tmp_path / name, model)).read_bytes() for name in ("a", "b"))
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
    path = Path(ms.save_steering(steering(), tmp_path / "s", model))
    whole = path.read_bytes()
    for n in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(FileFormatError, match="truncated"):
            ms.load_steering(path, model)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(FileFormatError, match="not a steering file of mechsteer's"):
        ms.load_steering(path, model)
    old = {"format_version": 1, "model_fingerprint": "0" * 24, "coeff": 1.0, "interventions": []}
    save_file({"x": torch.zeros(2)}, path, metadata={"mechsteer": json.dumps(old)})
    with pytest.raises(FileFormatError, match=r"of an earlier version of mechsteer(?s:.*)hint: .*save_steering"):
        ms.load_steering(path, model)
    with pytest.raises(FileFormatError, match="no steering file"):
        ms.load_steering(tmp_path / "none", model)


def written_anew(path, tensors=None, **changes):
    """The file with other content under a digest that fits: nothing but the schema can tell."""
    before, header = read_tensors(path, kind="steering file")
    write_tensors(path, before if tensors is None else tensors(before), header | changes, kind="steering file")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format_version": 9}, "format version 9"),
        ({"format_version": [2]}, "format version"),
        ({"model_fingerprint": 7}, r"expected str @ the header of .*\.model_fingerprint"),
        ({"coeff": "0.9"}, r"\.coeff"),
        ({"coeff": float("inf")}, "the coefficient of .* is inf"),
        ({"entries": {}}, r"\.entries"),
        ({"new": 1}, "extra fields found"),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path, changes, why):
    path = ms.save_steering(steering(), tmp_path / "s", toys.shared("llama"))
    written_anew(path, **changes)
    with pytest.raises(FileFormatError, match=why):
        ms.load_steering(path, toys.shared("llama"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "statik"}, r"needs the adapter 'statik', which nothing has registered(?s:.*)import the module"),
        ({"name": "os.path"}, "which nothing has registered"),
        ({"kind": "import"}, r"entries\[2\]\.kind"),
        ({"config": {"shape": [3]}}, "size mismatch"),
        ({"config": {"shape": [3]}, "module": 0}, "describes adapter 0 in two ways"),
        ({"module": 0}, "'1.vector' of no adapter"),
        ({"module": -1}, "'1.vector' of no adapter"),
        ({"site": {"layer": 0.5, "point": "resid_post"}}, r"entries\[2\]\.site\.layer"),
        ({"site": {"layer": 99, "point": "resid_post"}}, "no layer 99"),
        ({"site": {"layer": 1, "point": "resid_psot"}}, "no point 'resid_psot'"),
        ({"reads": [{"layer": 99, "point": "resid_post"}]}, "no layer 99"),
        ({"reads": None}, r"entries\[2\]\.reads"),
        ({"scope": {"scope": "everywhere"}}, "unknown token scope"),
        ({"scope": {}}, "unknown token scope"),
        ({"scope": {"scope": "&", "a": 1}}, "cannot be"),
        ({"coeff": float("nan")}, "coeff is nan"),
        ({"coeff": None}, r"entries\[2\]\.coeff"),
    ],
)
def test_an_entry_that_is_none_is_refused(tmp_path, change, why):
    path = ms.save_steering(steering(), tmp_path / "s", toys.shared("llama"))
    _, header = read_tensors(path, kind="steering file")
    written_anew(path, entries=[*header["entries"][:2], header["entries"][2] | change])
    with pytest.raises(FileFormatError, match=why):
        ms.load_steering(path, toys.shared("llama"))


@pytest.mark.parametrize("config", [{}, {"shape": "x"}, {"shape": [-1]}, {"shape": [10**15]}, {"shape": []}])
def test_a_configuration_of_no_adapter_is_refused(tmp_path, config):
    path = ms.save_steering(steering().interventions[2], tmp_path / "s", toys.shared("llama"))
    _, header = read_tensors(path, kind="steering file")
    written_anew(path, entries=[header["entries"][0] | {"config": config}])
    with pytest.raises(FileFormatError, match=r"an intervention .number 0. that cannot be"):
        ms.load_steering(path, toys.shared("llama"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: {}, "Missing key"),
        (lambda t: t | {"0.vector": torch.zeros(3)}, "size mismatch"),
        (lambda t: t | {"0.vector": t["0.vector"].long()}, "cannot be"),
        (lambda t: t | {"0.more": torch.zeros(3)}, "Unexpected key"),
        (lambda t: t | {"7.vector": torch.zeros(3)}, "'7.vector' of no adapter"),
        (lambda t: t | {"vector": torch.zeros(3)}, "'vector' of no adapter"),
    ],
)
def test_tensors_that_fit_no_adapter_are_refused(tmp_path, change, why):
    path = ms.save_steering(steering(), tmp_path / "s", toys.shared("llama"))
    written_anew(path, change)
    with pytest.raises(FileFormatError, match=why):
        ms.load_steering(path, toys.shared("llama"))


def test_what_json_cannot_hold_is_not_saved(tmp_path):
    with pytest.raises(ConfigError, match=r"provenance is nothing that JSON can hold: .*Path"):
        ms.save_steering(steering(), tmp_path / "s", toys.shared("llama"), provenance={"folder": tmp_path})
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    model = toys.shared("llama")
    path = Path(ms.save_steering(steering(), tmp_path / "s", model))
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
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
                ms.save_steering(big, small / "s", toys.shared("llama"), budget_bytes=None)
            assert [p.name for p in small.iterdir()] == ["filler"]
        else:
            assert ms.save_steering(big, small / "s", toys.shared("llama"), budget_bytes=None).n_bytes > 200_000
    finally:
        if mounted:
            subprocess.run(["umount", str(small)], check=True)
