"""Steering files with fewer bits per number: what is lost is bounded, stated, and no more than stated."""

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
import toy_adapters
import toys
from safetensors import safe_open
from steering_toys import noisy

import mechsteer as ms
from mechsteer.errors import ConfigError, FileFormatError, MechsteerWarning, NonFiniteError
from mechsteer.files.tensors import read_tensors, write_tensors
from mechsteer.results import Interval
from mechsteer.steering.files import read_header
from mechsteer.steering.header import SavedSteering
from mechsteer.steering.quantising import n_stored_bytes, quantised, restored

D = toys.D_MODEL
TOKENS = torch.tensor(toys.prompts(9))
GENERATOR = torch.Generator().manual_seed(0)
ROWS = [torch.zeros(5), torch.full((5,), 1e-7), torch.tensor([3e6, -1e-3, 0.0, 7.0, -3e6])]
MATRICES = {
    "ordinary": torch.randn(6, 5, generator=GENERATOR),
    "rows of all sizes": torch.stack(ROWS),
    "three axes": torch.randn(2, 3, 4, generator=GENERATOR),
    "no columns": torch.zeros(3, 0),
    "double": torch.randn(4, 4, generator=GENERATOR, dtype=torch.float64),
    "bfloat16": torch.randn(4, 4, generator=GENERATOR).bfloat16(),
}


def back(stored, lost):
    return restored(stored, lost, path="s", hint="")


@pytest.mark.parametrize("name", MATRICES)
def test_int8_is_off_by_half_a_step_at_most(name):
    stored, lost = quantised({"w": MATRICES[name]}, "int8")
    before, after = MATRICES[name].double(), back(stored, lost)["w"]
    assert after.dtype == torch.float32
    assert (stored["w"].dtype, stored["w:scale"].dtype) == (torch.int8, torch.float16)
    half = (stored["w:scale"].double() / 2).reshape(-1, *[1] * (before.ndim - 1))
    off = (after.double() - before).abs()
    assert (off <= half * (1 + 1e-5)).all()  # 1e-5: the product is rounded to float32
    if before.numel():
        most = before.flatten(1).abs().amax(1)
        # the largest scale that is needed, rounded up to float16 (11 bits; below 6e-5 in steps of 6e-8)
        assert (stored["w:scale"].double() <= most / 127 * (1 + 2**-10) + 6e-8).all()
        assert stored["w"].flatten(1).abs().amax(1)[most > 1e-4].min() >= 126


def test_what_is_lost_is_what_is_said():
    tensors = {"w": MATRICES["ordinary"], "v": torch.randn(7, generator=GENERATOR), "zeros": torch.zeros(3, 3)}
    for to in ("float16", "int8"):
        stored, lost = quantised(tensors, to)
        after = back(stored, lost)
        for said in lost:
            before = tensors[said.name].double()
            off = after[said.name].double() - before
            assert said.max_error == pytest.approx(float(off.abs().max()), rel=1e-2)
            if said.name != "zeros":
                assert said.relative_error == pytest.approx(float(off.norm() / before.norm()), rel=1e-2)
                assert said.max_error > 0
        assert [e.relative_error for e in lost if e.name == "zeros"] == [0.0]
        assert torch.equal(after["v"], tensors["v"].half().float())  # a vector has no rows: float16 in both
        assert {e.name: e.stored for e in lost} == {"w": to, "v": "float16", "zeros": to}


def test_what_has_no_bits_to_spare_stays():
    tensors = {"n": torch.tensor([3, 4]), "yes": torch.tensor([True]), "one": torch.tensor(0.1, dtype=torch.float64)}
    stored, lost = quantised(tensors, "int8")
    assert lost == []
    assert all(
        torch.equal(stored[name], tensors[name]) and stored[name].dtype == tensors[name].dtype for name in tensors
    )


@pytest.mark.parametrize("to", ["float16", "int8"])
@pytest.mark.parametrize(
    "tensor", [torch.tensor([[1.0, float("nan")]]), torch.tensor([[float("inf"), 1.0]]), torch.tensor([1e6, 1.0])]
)
def test_what_cannot_be_held_is_refused(to, tensor):
    with pytest.raises(NonFiniteError, match=r"the tensor 0\.w holds NaN(?s:.*)dtype=None"):
        quantised({"0.w": tensor}, to)


def test_another_number_of_bits_is_refused(tmp_path):
    for dtype in ("int4", "float32", 8):
        with pytest.raises(ConfigError, match=r"dtype is (?s:.*)one of \['float16', 'int8', None\]"):
            ms.save_steering(steering(), tmp_path / "s", toys.shared("llama"), dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_counted_before_they_are_stored():
    tensors = {
        **without(MATRICES, "rows of all sizes"),
        "v": torch.zeros(7),
        "n": torch.tensor([3, 4]),
        "one": torch.tensor(1.0),
    }
    for name, tensor in tensors.items():
        for to in ("float16", "int8"):
            stored, _ = quantised({"w": tensor}, to)
            assert n_stored_bytes(tensor, to) == sum(t.nbytes for t in stored.values()), (name, to)
        assert n_stored_bytes(tensor, None) == tensor.nbytes


# -- files ---------------------------------------------------------------------------------------------------------


def steering():
    mlp = noisy(toy_adapters.PromptMlp(D, D))
    return ms.Steering(
        [
            ms.Intervention(mlp, ms.Site(1), scope=ms.TokenScope.generated(include_last_prompt=True), coeff=1.5),
            ms.Intervention(noisy(toy_adapters.GatedGru(D, D)), ms.Site(2), scope="generated"),
            ms.Intervention(mlp, ms.Site(2), coeff=-1.0),
            ms.Observation(noisy_probe(), [ms.Site(0), ms.Site(1)]),
        ]
    )


def noisy_probe():
    return toy_adapters.Probe(D, D).double()


def logits(model, st):
    with torch.no_grad(), ms.steer(model, st, prompt_lengths=[5]):
        return model(TOKENS)


@pytest.mark.parametrize(("dtype", "most"), [("float16", 1e-3), ("int8", 1e-2)])
def test_a_quantised_file_loads_as_near_as_it_says(dtype, most, tmp_path):
    model, saved = toys.shared("llama"), steering()
    told = ms.save_steering(saved, tmp_path / "s", model, dtype=dtype)
    loaded = ms.load_steering(told, model)
    assert loaded.interventions[0].adapter is loaded.interventions[2].adapter
    errors = {e.name: e for e in told.errors}
    index = {0: 0, 1: 1, 3: 2}  # of the intervention -> of its module
    for i, number in index.items():
        before, after = saved.interventions[i].module.state_dict(), loaded.interventions[i].module.state_dict()
        for name, tensor in before.items():
            said = errors[f"{number}.{name}"]
            assert after[name].dtype == torch.float32
            off = (after[name].double() - tensor.double()).abs()
            assert off.max() <= said.max_error * 1.01
            assert said.relative_error < most
    assert max(e.relative_error for e in told.errors) > most / 100  # it does lose something
    moved = logits(model, saved) - logits(model, ())
    off = logits(model, loaded) - logits(model, saved)
    assert 0 < off.norm() < 10 * most * moved.norm()
    assert read_header(told).errors == list(told.errors)


def test_what_is_returned_is_true_of_the_file(tmp_path):
    model, saved, sizes = toys.shared("llama"), steering(), {}
    for dtype in (None, "float16", "int8"):
        told = ms.save_steering(saved, tmp_path / f"{dtype}.safetensors", model, dtype=dtype)
        sizes[dtype] = told.n_bytes
        assert Path(told).stat().st_size == told.n_bytes
        assert str(told) == str(tmp_path / f"{dtype}.safetensors")
        modules = {id(iv.module): iv.module for iv in saved.interventions}
        assert told.n_parameters == sum(p.numel() for m in modules.values() for p in m.parameters())
        assert f"{told.n_parameters:,} parameters in {told.n_bytes:,} bytes" in told.describe()
        assert ("to the bit" in told.describe()) == (dtype is None)
        assert SavedSteering.from_dict(told.to_dict()) == told
    assert sizes["int8"] < sizes["float16"] < sizes[None]


def test_equal_steerings_give_equal_bytes(tmp_path):
    model, saved = toys.shared("llama"), steering()
    paths = [ms.save_steering(saved, tmp_path / name, model, dtype="int8") for name in "ab"]
    assert Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes()


def test_over_budget_warns_with_count_and_size(tmp_path):
    model = toys.shared("llama")
    big = ms.Intervention(ms.adapters.Static(torch.ones(30_000)), ms.Site(1))
    with pytest.warns(
        MechsteerWarning, match=r"30,000 parameters in 12\d,\d{3} bytes.*more than the budget of 100,000"
    ):
        told = ms.save_steering(big, tmp_path / "s", model)
    assert told.n_bytes > 100_000
    with pytest.warns(MechsteerWarning, match="the budget of 2,000 bytes"):
        ms.save_steering(steering(), tmp_path / "s", model, budget_bytes=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ms.save_steering(big, tmp_path / "s", model, dtype="float16").n_bytes < 100_000
        ms.save_steering(big, tmp_path / "s", model, budget_bytes=None)


def test_the_header_tells_a_reader(tmp_path):
    model = toys.shared("llama")
    accuracy = Interval(value=0.61, low=0.5, high=0.75)
    told = {"data": {"train": "0f3a"}, "metrics": {"accuracy": accuracy}, "licence": "MIT"}
    header = read_header(ms.save_steering(steering(), tmp_path / "s", model, dtype="int8", **told))
    assert [(d.name, d.digest) for d in header.data] == [("train", "0f3a")]
    assert [(m.name, m.value, m.low, m.high) for m in header.metrics] == [("accuracy", 0.61, 0.5, 0.75)]
    assert (header.licence, header.quantisation, header.format_version) == ("MIT", "int8", 5)
    assert header.mechsteer_version == ms.__version__
    assert header.bos_token_id == model.tokenizer.bos_token_id
    pooled = {m.number: (m.pooling, m.bos) for m in header.modules}
    assert pooled == {0: ("mean", False), 1: (None, None), 2: (None, None)}
    assert header.model.checkpoint == ms.models.checkpoint_fingerprint(model)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"metrics": {"accuracy": 0.6}}, "the metric 'accuracy' is a float(?s:.*)needs its interval"),
        ({"data": {"train": 7}}, "7 is not text"),
        ({"licence": 3}, "3 is not text"),
    ],
)
def test_what_a_header_cannot_say_is_refused(told, why, tmp_path):
    with pytest.raises(ConfigError, match=why):
        ms.save_steering(steering(), tmp_path / "s", toys.shared("llama"), **told)
    assert list(tmp_path.iterdir()) == []


def rewritten(path, change):
    tensors, header = read_tensors(path, kind="steering file")
    write_tensors(path, *change(tensors, header), kind="steering file")


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


def first_error(header, **changes):
    return header | {"errors": [header["errors"][0] | changes, *header["errors"][1:]]}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t, h: (without(t, "0.body.0.weight:scale"), h), "holds no int8 tensor '0.body.0.weight'"),
        (lambda t, h: (without(t, "0.body.0.weight"), h), "holds no int8 tensor '0.body.0.weight'"),
        (lambda t, h: (t | {"0.body.0.weight:scale": torch.ones(3).half()}, h), "holds no int8 tensor"),
        (lambda t, h: (t | {"0.body.0.weight:scale": torch.ones(6)}, h), "holds no int8 tensor"),
        (lambda t, h: (t | {"0.body.0.weight": t["0.body.0.weight"].float()}, h), "holds no int8 tensor"),
        (lambda t, h: (t, first_error(h, stored="int4")), "holds no int4 tensor"),
        (lambda t, h: (t, first_error(h, name="0.other")), "holds no int8 tensor '0.other'"),
        (lambda t, h: (t, h | {"errors": []}), "cannot be"),
        (lambda t, h: (t, h | {"errors": [*h["errors"], h["errors"][0]]}), "holds no int8 tensor"),
        (lambda t, h: (t, first_error(h, max_error="x")), r"errors\[0\]\.max_error"),
        (lambda t, h: (t, h | {"modules": []}), "its size or its pooling is not what the header says"),
        (lambda t, h: (t, h | {"modules": [h["modules"][0] | {"pooling": "last"}, *h["modules"][1:]]}), "its pooling"),
        (lambda t, h: (t, h | {"licence": 4}), r"\.licence"),
        (lambda t, h: (t, h | {"metrics": [{"name": "a", "value": 1}]}), r"\.metrics"),
        (lambda t, h: (t, h | {"format_version": 6}), "format version 6, this mechsteer reads 2 to 5"),
    ],
)
def test_a_quantised_file_that_contradicts_itself_is_refused(change, why, tmp_path):
    model = toys.shared("llama")
    path = Path(ms.save_steering(steering(), tmp_path / "s", model, dtype="int8"))
    first = read_header(path).errors[0].name
    assert first == "0.body.0.weight"
    rewritten(path, change)
    with pytest.raises(FileFormatError, match=why):
        ms.load_steering(path, model)


def test_files_of_version_3_are_read(tmp_path):
    model, saved = toys.shared("llama"), steering()
    path = ms.save_steering(saved, tmp_path / "s", model)
    new = {
        "modules",
        "bos_token_id",
        "quantisation",
        "errors",
        "data",
        "metrics",
        "licence",
        "mechsteer_version",
        "tensors_sha256",
    }

    def as_3(tensors, header):
        old = {key: value for key, value in header.items() if key not in new}
        return tensors, old | {"format_version": 3, "model": without(header["model"], "checkpoint")}

    rewritten(path, as_3)
    assert torch.equal(logits(model, ms.load_steering(path, model)), logits(model, saved))
    assert {f.name for f in dataclasses.fields(read_header(path))} >= new


def test_other_tools_read_what_is_stored(tmp_path):
    path = ms.save_steering(steering(), tmp_path / "s", toys.shared("llama"), dtype="int8")
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("0.body.0.weight").dtype == torch.int8
        assert file.get_tensor("0.body.0.bias").dtype == torch.float16
