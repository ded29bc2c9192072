"""Gains in steering files: presets come back, everything else stays as it was, and what does not fit is refused."""

import json

import pytest
import torch
import toys
from mixing_toys import K, dictionary, logits
from safetensors import safe_open

import mechsteer as ms
from mechsteer.errors import ConfigError, FileFormatError, NonFiniteError, ShapeError, StorageError
from mechsteer.files.tensors import METADATA, read_tensors, write_tensors
from mechsteer.results import Interval
from mechsteer.steering import atoms_of, gain_presets, mixed, read_header, read_steering, save_gain_preset, save_mixed
from mechsteer.steering.files import KIND

DTYPES = [None, "float16", "int8"]
GAINS = [0.1, 0.0, -1.5, 1 / 3]


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


def saved(folder, model, dtype=None, steering=None):
    steering = ms.Steering(dictionary(), 0.75) if steering is None else steering
    told = {
        "data": {"train": "0123abcd"},
        "metrics": {"accuracy": Interval(value=0.5, low=0.4, high=0.6)},
        "licence": "mit",
        "provenance": {"seed": 3},
    }
    return ms.save_steering(steering, folder / "d.safetensors", model, dtype=dtype, **told).path


def stored(path):
    """(tensors, header without its digest) as they lie in the file."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[METADATA])
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118


def equal(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("dtype", DTYPES)
def test_presets_come_back_and_nothing_else_changes(model, tmp_path, dtype):
    path = saved(tmp_path, model, dtype)
    tensors, header = stored(path)
    assert gain_presets(path) == {}
    assert str(save_gain_preset(path, "calm", GAINS)) == path
    save_gain_preset(path, "zur Hälfte", torch.full((K,), 0.5))
    save_gain_preset(path, "one", {2: 7})
    save_gain_preset(path, "one", {2: 0})  # over the former
    assert gain_presets(path) == {"calm": tuple(GAINS), "zur Hälfte": (0.5,) * K, "one": (1, 1, 0, 1)}
    after, header_after = stored(path)
    assert equal(after, tensors)
    for changed in ("gain_presets", "digest"):
        header_after.pop(changed, None)
        header.pop(changed, None)
    assert header_after == header
    loaded = ms.load_steering(path, model)
    assert atoms_of(loaded).gains == (1,) * K
    assert atoms_of(mixed(loaded, "one", presets=gain_presets(path))).gains == (1, 1, 0, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.safetensors"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mixed_file_is_the_mixed_steering_to_the_bit(model, tmp_path, dtype):
    path = saved(tmp_path, model, dtype)
    save_gain_preset(path, "calm", GAINS)
    before = ms.load_steering(path, model)
    for gains in (GAINS, "calm"):
        out = save_mixed(path, tmp_path / "new.safetensors", gains)
        again = ms.load_steering(out, model)
        assert torch.equal(logits(model, again), logits(model, mixed(before, GAINS)))
        assert torch.equal(logits(model, mixed(again, "trained")), logits(model, before))
    assert not torch.equal(logits(model, again), logits(model, before))
    assert (again.coeff, gain_presets(out)) == (0.75, gain_presets(path))
    old, new = read_header(path), read_header(out)
    assert new.quantisation == dtype
    assert (new.licence, new.data, new.model_fingerprint) == (old.licence, old.data, old.model_fingerprint)
    assert old.metrics
    assert new.metrics == []  # they were of the old gains
    assert new.provenance == {"seed": 3, "gains": list(atoms_of(again).gains)}
    tensors, kept = stored(path)[0], stored(out)[0]
    assert equal(
        {k: v for k, v in kept.items() if k != "0.gains"}, {k: v for k, v in tensors.items() if k != "0.gains"}
    )


def test_with_the_gains_that_stand_the_file_is_the_same(model, tmp_path):
    path = saved(tmp_path, model, "int8")
    out = save_mixed(path, tmp_path / "new.safetensors", "trained")
    assert out.read_bytes() == (tmp_path / "d.safetensors").read_bytes()


def test_a_file_is_read_without_its_model(model, tmp_path):
    steering = ms.Steering([dictionary(), dictionary(3, seed=1, layer=2)], coeff=0.5)
    path = saved(tmp_path, model, steering=steering)
    found, loaded = read_steering(path), ms.load_steering(path, model)
    assert repr(found) == repr(loaded)
    for a, b in zip(found.interventions, loaded.interventions, strict=True):
        assert equal(a.adapter.state_dict(), b.adapter.state_dict())
    out = save_mixed(path, tmp_path / "new.safetensors", {3: 0.25, 6: 0.5})
    assert atoms_of(read_steering(out)).gains == (1, 1, 1, 0.25, 1, 1, 0.5)


@pytest.mark.parametrize(
    ("name", "gains", "error", "words"),
    [
        ("calm", [1], ShapeError, "1 gains for 4 atoms"),
        ("calm", [1, 1, 1, float("nan")], NonFiniteError, "nan"),
        ("calm", "clam", ConfigError, "no preset 'clam'"),
        ("trained", GAINS, ConfigError, "(?s)every steering has a preset 'trained'.*another name"),
        ("off", GAINS, ConfigError, "every steering has a preset 'off'"),
        ("", GAINS, ConfigError, "'' is no name of a preset"),
        ("a\x1b[2J", GAINS, ConfigError, "is no name of a preset"),
        ("x" * 61, GAINS, ConfigError, "at most 60"),
        (3, GAINS, ConfigError, "3 is no name"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_the_file_stays(model, tmp_path, name, gains, error, words):
    path = saved(tmp_path, model)
    before = (tmp_path / "d.safetensors").read_bytes()
    with pytest.raises(error, match=words):
        save_gain_preset(path, name, gains)
    assert (tmp_path / "d.safetensors").read_bytes() == before


def test_files_that_cannot_be_mixed(model, tmp_path):
    path = saved(tmp_path, model, steering=ms.Steering(ms.Intervention(ms.adapters.Static(toys.vector(1)), 1)))
    assert gain_presets(path) == {}
    with pytest.raises(ConfigError, match="no adapter of this steering has atoms"):
        save_gain_preset(path, "calm", GAINS)
    with pytest.raises(ConfigError, match="no adapter of this steering has atoms"):
        save_mixed(path, tmp_path / "new.safetensors", GAINS)
    for call in (gain_presets, lambda p: save_gain_preset(p, "calm", GAINS)):
        with pytest.raises(FileFormatError, match=r"no steering file at .*none"):
            call(tmp_path / "none.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        save_mixed(saved(tmp_path, model), tmp_path / "file" / "new.safetensors", GAINS)


@pytest.mark.parametrize(
    "kept", [{"calm": [1.0]}, {"calm": [1, 1, 1, float("nan")]}, {"off": [1] * 4}, {"\x1b": [1] * 4}]
)
def test_presets_of_a_file_that_do_not_fit_are_refused(model, tmp_path, kept):
    path = saved(tmp_path, model)
    tensors, header = read_tensors(path, kind=KIND)
    write_tensors(path, tensors, header | {"gain_presets": kept}, kind=KIND)
    with pytest.raises(FileFormatError, match=r"(?s)the preset '.*' of .*d.safetensors cannot be: .*copy it again"):
        gain_presets(path)
    write_tensors(path, tensors, header | {"gain_presets": {"calm": "loud"}}, kind=KIND)
    with pytest.raises(FileFormatError, match="gain_presets"):
        gain_presets(path)


def test_files_without_presets_of_their_own_are_read(model, tmp_path):
    """As they were written before there were any."""
    path = saved(tmp_path, model)
    tensors, header = read_tensors(path, kind=KIND)
    header.pop("gain_presets")
    write_tensors(path, tensors, header, kind=KIND)
    assert gain_presets(path) == {}
    save_gain_preset(path, "calm", GAINS)
    assert gain_presets(path) == {"calm": tuple(GAINS)}
