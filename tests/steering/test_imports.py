"""Vectors of other tools: files written as those tools write them, read as directions at the sites where they act."""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import types
from pathlib import Path

import gguf
import mutations
import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, FileFormatError, MechsteerError, ModelMismatchError
from mechsteer.steering import as_steering, load_vectors

TOKENS = torch.tensor(toys.prompts(6, 6))
VECTORS = {1: toys.vector(1), 2: toys.vector(2)}


def write_gguf(path: Path, vectors, *, architecture="controlvector", hint="llama") -> Path:
    """As repeng's `export_gguf` does."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string(f"{architecture}.model_hint", hint)
    writer.add_uint32(f"{architecture}.layer_count", len(vectors))
    for layer, vector in vectors.items():
        writer.add_tensor(f"direction.{layer}", np.asarray(vector))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_svec(path: Path, vectors) -> Path:
    """As activation-steering's `SteeringVector.save` does."""
    data = {
        "model_type": "llama",
        "directions": {str(layer): vector.tolist() for layer, vector in vectors.items()},
        "explained_variances": {str(layer): 0.5 for layer in vectors},
    }
    path.write_text(json.dumps(data))
    return path


def write_pt(path: Path, vectors, layer_type="decoder_block", module="steering_vectors.steering_vector") -> Path:
    """As `torch.save(steering_vector, path)` does, where steering-vectors is installed; it is not when this is read."""

    @dataclasses.dataclass
    class SteeringVector:
        layer_activations: dict
        layer_type: str

    SteeringVector.__module__, SteeringVector.__qualname__ = module, "SteeringVector"
    made = [".".join(module.split(".")[: i + 1]) for i in range(module.count(".") + 1)]
    sys.modules |= {name: types.ModuleType(name) for name in made}
    try:
        sys.modules[module].SteeringVector = SteeringVector
        torch.save(SteeringVector(vectors, layer_type), path)
    finally:
        for name in made:
            del sys.modules[name]
    return path


WRITERS = {"gguf": (write_gguf, "v.gguf"), "svec": (write_svec, "v.svec"), "steering-vectors": (write_pt, "v.pt")}


@pytest.mark.parametrize("kind", WRITERS)
def test_vectors_come_in_with_their_sites_and_what_was_assumed(kind, tmp_path):
    write, name = WRITERS[kind]
    found = load_vectors(write(tmp_path / name, VECTORS), model=toys.shared("llama"))
    assert list(found) == [ms.Site(1), ms.Site(2)]
    for site, direction in found.items():
        torch.testing.assert_close(direction.vector, VECTORS[site.layer])
        assert (direction.site, direction.name) == (site, "v")
        assert direction.provenance["source"] == name
        assert direction.provenance["assumed"]["site"].startswith(f"{site}: ")
        assert "from negative to positive" in direction.provenance["assumed"]["sign"]
        if kind != "steering-vectors":
            assert direction.provenance["model_hint"] == "llama"
    assert (found[ms.Site(1)] / 2 + found[ms.Site(1)]).name == "0.5 * v + v"


@pytest.mark.parametrize("kind", WRITERS)
def test_they_steer_as_hooks_behind_the_blocks_do(kind, tmp_path):
    """The oracle is a plain forward hook on the Hugging Face blocks, which is what these tools put there."""
    model, hf, (write, name) = toys.load("llama"), toys.hf_model("llama"), WRITERS[kind]
    vectors = load_vectors(write(tmp_path / name, VECTORS), model=model)
    with torch.no_grad(), ms.steer(model, as_steering(vectors, coeff=0.5)):
        steered = model(TOKENS)
    for layer, block in enumerate(toys.blocks(hf)):
        if layer in VECTORS:
            add = 0.5 * VECTORS[layer]
            block.register_forward_hook(
                lambda module, args, out, add=add: (out[0] + add, *out[1:]) if isinstance(out, tuple) else out + add
            )
    with torch.no_grad():
        torch.testing.assert_close(steered, hf(TOKENS).logits, rtol=0, atol=5e-5)


def test_what_we_export_comes_back(tmp_path):
    steering = ms.Steering([ms.Intervention(ms.adapters.Static(v), ms.Site(i)) for i, v in VECTORS.items()], coeff=0.5)
    found = load_vectors(ms.export_gguf(steering, tmp_path / "v.gguf", model_hint="toy"))
    assert [d.provenance["model_hint"] for d in found.values()] == ["toy", "toy"]
    for site, direction in found.items():
        assert torch.equal(direction.vector, 0.5 * VECTORS[site.layer])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_gguf_in_half_precision(dtype, tmp_path):
    path = write_gguf(tmp_path / "v.gguf", {1: VECTORS[1].numpy().astype(dtype)})
    (found,) = load_vectors(path).values()
    assert found.vector.dtype == torch.float32
    torch.testing.assert_close(found.vector, VECTORS[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("layer_type", "point"), [("decoder_block", "resid_post"), ("self_attn", "attn_out"), ("mlp", "mlp_out")]
)
def test_steering_vectors_name_the_module(layer_type, point, tmp_path):
    path = write_pt(tmp_path / "v.pt", VECTORS, layer_type)
    assert list(load_vectors(path)) == [ms.Site(1, point), ms.Site(2, point)]
    assert layer_type in load_vectors(path)[ms.Site(1, point)].provenance["assumed"]["site"]


def test_tensors_alone_and_layers_from_the_end(tmp_path):
    torch.save({-1: VECTORS[1][None], 0: VECTORS[2]}, tmp_path / "v.pt")
    found = load_vectors(tmp_path / "v.pt", model=toys.shared("llama"))
    assert list(found) == [ms.Site(2), ms.Site(0)]
    assert torch.equal(found[ms.Site(2)].vector, VECTORS[1])
    with pytest.raises(ConfigError, match=r"counts layers from the end \(-1\)"):
        load_vectors(tmp_path / "v.pt")
    torch.save({"layer_activations": VECTORS, "layer_type": "mlp"}, tmp_path / "d.pt")
    assert list(load_vectors(tmp_path / "d.pt")) == [ms.Site(1, "mlp_out"), ms.Site(2, "mlp_out")]


class Bomb:
    """What a pickle can do: write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "ran")


@pytest.mark.parametrize("hidden", [False, True])
def test_nothing_of_a_pickle_is_run(hidden, tmp_path):
    bomb = Bomb(tmp_path / "ran.txt")
    torch.save({1: VECTORS[1], 2: bomb} if hidden else bomb, tmp_path / "v.pt")
    with pytest.raises(FileFormatError, match=r"is refused: it is no file of torch\.save with tensors alone"):
        load_vectors(tmp_path / "v.pt")
    assert not bomb.path.exists()
    torch.load(tmp_path / "v.pt", weights_only=False)
    assert bomb.path.exists()  # the file would have run


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda p: p / "v.gguf", FileFormatError, "no file at"),
        (lambda p: p / "v.bin", ConfigError, "unknown kind '.bin'"),
        (lambda p: write_gguf(p / "m.gguf", VECTORS, architecture="llama"), FileFormatError, "of 'llama', no control"),
        (lambda p: write_gguf(p / "e.gguf", {}), FileFormatError, "holds no vector|cannot be read"),
        (lambda p: write_gguf(p / "x.gguf", {"one": VECTORS[1]}), FileFormatError, "cannot be read as GGUF"),
        (lambda p: write_gguf(p / "n.gguf", {1: torch.full((32,), torch.nan)}), FileFormatError, "NaN or infinity"),
        (lambda p: write_svec(p / "t.svec", {1: torch.ones(2, 3)}), FileFormatError, r"shape \(2, 3\) for layer 1"),
        (lambda p: write_svec(p / "e.svec", {}), FileFormatError, "holds no vector"),
        (lambda p: write_pt(p / "v.pt", VECTORS, "input_layernorm"), FileFormatError, "made at 'input_layernorm'"),
        (lambda p: write_pt(p / "v.pt", {"1": VECTORS[1]}), FileFormatError, "holds no {layer: tensor}"),
        (lambda p: write_pt(p / "v.pt", VECTORS, module="elsewhere"), FileFormatError, "is refused"),
        (lambda p: write_svec(p / "w.svec", {1: torch.ones(7)}), ModelMismatchError, "7 numbers, resid_post@1"),
        (lambda p: write_svec(p / "l.svec", {9: torch.ones(32)}), ModelMismatchError, "no layer 9 in a model with 3"),
    ],
)
def test_other_files_are_refused(write, error, message, tmp_path):
    with pytest.raises(error, match=message):
        load_vectors(write(tmp_path), model=toys.shared("llama"))


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files_are_refused_or_read_and_never_crash(kind, tmp_path):
    write, name = WRITERS[kind]
    path = write(tmp_path / name, VECTORS)
    whole, refused = path.read_bytes(), 0
    for number in range(60):
        path.write_bytes(mutations.mutated(random.Random(number), whole))
        try:
            assert all(d.vector.isfinite().all() for d in load_vectors(path).values())
        except MechsteerError:
            refused += 1
    assert refused > 10
    for size in (0, 3, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(FileFormatError):
            load_vectors(path)
