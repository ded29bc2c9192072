"""A model on two devices computes what it computes on one: steered, written on, captured, trained, from files.

Devices are names here (see `fake_devices`), spread by accelerate's own hooks; tensors of two of them do not meet.
"""

from __future__ import annotations

import fake_devices
import pytest
import torch
import toys
from fake_devices import ONE, TWO
from steering_toys import Copy

import mechsteer as ms
from mechsteer.errors import ConfigError, ModelLoadError
from mechsteer.models import backend_of, twin_of
from mechsteer.runtime.batches import Sample
from mechsteer.steering.interventions import writing
from mechsteer.steering.presets import untrained
from mechsteer.training import FitConfig, fit

FAMILIES = ("llama", "gpt2", "neox")
LAST = ms.TokenScope.generated(include_last_prompt=True)
KINDS = {
    "static": {},
    "drab": {"bos": False},
    "drab looking back": {"look_back": True, "pooling": "embedding"},
    "dictionary": {"n_atoms": 4, "d_hidden": 8},
    "gated": {"alpha": 0.5},
    "gru": {},
}
ROWS = toys.prompts(9, 5, 7)


@pytest.fixture
def devices():
    with fake_devices.FakeDevices() as fake:
        yield fake


def split(devices, family="llama"):
    hf = toys.hf_model(family)
    return ms.load_model(fake_devices.spread(devices, hf, toys.blocks(hf)), tokenizer=toys.tokenizer())


def of_kind(model, kind, layer, **options):
    """The same of every model, and where its adapter is."""
    found = untrained(model, kind.partition(" ")[0], layer, **options, **KINDS[kind])
    devices = {p.device for p in found.adapter.parameters()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in found.adapter.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator).to(p.device))
    return found, devices


def logits(model, steering=(), rows=ROWS):
    n = max(map(len, rows))
    where = backend_of(model).device
    tokens = torch.tensor([[258] * (n - len(row)) + row for row in rows]).to(where)
    mask = torch.tensor([[0] * (n - len(row)) + [1] * len(row) for row in rows]).to(where)
    with torch.no_grad(), ms.steer(model, steering):
        return model(tokens, attention_mask=mask)[mask.bool()].cpu()


def alike(found, expected):
    torch.testing.assert_close(found.cpu(), expected.cpu(), equal_nan=True)


def test_tensors_of_two_devices_do_not_meet(devices):
    hf = toys.hf_model("llama")
    fake_devices.spread(devices, hf, toys.blocks(hf))
    with pytest.raises(RuntimeError, match=r"tensors are on \['cpu', 'cpu:1'\]"):
        _ = hf.model.embed_tokens.weight + torch.zeros(32)


@pytest.mark.parametrize("family", FAMILIES)
def test_bridge_and_twin_of_a_split_model(family, devices):
    model, alone = split(devices, family), toys.shared(family)
    engine = backend_of(model)
    assert (engine.device, engine.device_at(0), engine.device_at(2)) == (ONE, ONE, TWO)
    alike(logits(model), logits(alone))
    assert (twin_of(model) is None) == (twin_of(alone) is None)
    found = ms.generate(model, ROWS, max_new_tokens=8, stop_tokens=())
    assert found.tokens == ms.generate(alone, ROWS, max_new_tokens=8, stop_tokens=()).tokens


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_interventions_follow_their_site(kind, layer, devices):
    model, alone = split(devices), toys.shared("llama")
    for scope in (LAST, ms.TokenScope.all()):
        iv, where = of_kind(model, kind, layer, scope=scope)
        assert where == {ONE if layer == 0 else TWO}
        same, _ = of_kind(alone, kind, layer, scope=scope)
        alike(logits(model, iv), logits(alone, same))
        assert (logits(model, iv) - logits(model)).abs().max() > 1e-3
        whole = ms.generate(alone, ROWS, same, max_new_tokens=8, stop_tokens=()).tokens
        stops = (whole[0][2], whole[1][4])  # rows leave the batch at different lengths
        texts = [
            ms.generate(m, ROWS, steering, max_new_tokens=8, stop_tokens=stops, record=True)
            for m, steering in ((model, iv), (alone, same))
        ]
        assert texts[0].engine == texts[1].engine == "twin"
        assert texts[0].tokens == texts[1].tokens
        alike(texts[0].readings[0]["delta_norm"], texts[1].readings[0]["delta_norm"])


def test_an_adapter_on_another_device_than_its_block_is_refused(devices):
    model = split(devices)
    iv, _ = of_kind(model, "drab looking back", 1)
    iv.adapter.to(ONE)
    with pytest.raises(ConfigError, match="Drab is on cpu:1, the model on cpu:2"):
        logits(model, iv)


def test_reading_on_one_device_and_writing_on_the_other(devices):
    model, alone = split(devices), toys.shared("llama")
    iv = ms.Intervention(Copy(), ms.Site(2), read=ms.Site(0), coeff=0.3)
    alike(logits(model, iv), logits(alone, iv))


@pytest.mark.parametrize("kind", ["static", "drab looking back", "gru"])
def test_what_goes_into_a_block_lies_where_the_block_before_left_it(kind, devices):
    model, alone = split(devices), toys.shared("llama")
    for scope in (LAST, ms.TokenScope.all()):
        iv, where = of_kind(model, kind, ms.Site(1, "resid_pre"), scope=scope)
        same, _ = of_kind(alone, kind, ms.Site(1, "resid_pre"), scope=scope)
        assert where == {TWO}
        alike(logits(model, iv), logits(alone, same))
        texts = [ms.generate(m, ROWS, s, max_new_tokens=4).tokens for m, s in ((model, iv), (alone, same))]
        assert texts[0] == texts[1]


def test_capture_from_both_devices(devices):
    model, alone = split(devices), toys.shared("llama")
    sites = [ms.Site(0), ms.Site(1, "resid_pre"), ms.Site(2, "mlp_out")]
    iv, _ = of_kind(model, "gated", 1)
    same, _ = of_kind(alone, "gated", 1)
    for engine in ("model", "auto"):
        found = ms.capture(model, ROWS, sites, interventions=iv, engine=engine, progress=False)
        expected = ms.capture(alone, ROWS, sites, interventions=same, engine=engine, progress=False)
        for site in sites:
            alike(found[site].values, expected[site].values)


@pytest.mark.parametrize("layer", [0, 1, 2, ms.Site(1, "resid_pre")])
def test_training_restarts_on_the_device_of_its_site(layer, devices):
    samples = [Sample(row, target) for row, target in zip(ROWS, toys.prompts(4, 6, 3, seed=2), strict=True)]
    fitted = []
    for model in (split(devices), toys.load("llama")):
        iv, _ = of_kind(model, "drab", layer, scope=LAST)
        before = torch.cat([p.detach().cpu().flatten() for p in iv.adapter.parameters()])
        trained = fit(model, iv, samples, FitConfig(lr=0.01, epochs=3, seed=0), progress=False)
        (found,) = writing(trained.steering)
        fitted.append(torch.cat([p.detach().cpu().flatten() for p in found.adapter.parameters()]))
        assert (fitted[-1] - before).abs().max() > 1e-2
    torch.testing.assert_close(*fitted, rtol=1e-4, atol=1e-5)


def test_a_file_puts_each_adapter_where_it_writes(devices, tmp_path):
    alone = toys.shared("llama")
    steering = ms.Steering([of_kind(alone, "gated", 0)[0], of_kind(alone, "drab", 2)[0]])
    ms.save_steering(steering, tmp_path / "s", alone)
    model = split(devices)
    loaded = ms.load_steering(tmp_path / "s", model)
    where = [{p.device for p in iv.adapter.parameters()} for iv in writing(loaded)]
    assert where == [{ONE}, {TWO}]
    alike(logits(model, loaded), logits(alone, steering))


def test_a_model_spread_by_hand_has_no_twin(devices):
    model = split(devices)
    del model.original_model.hf_device_map
    assert twin_of(model) is None


def test_a_device_map_where_there_can_be_none():
    path = toys.folder("llama")
    model = ms.load_model(path, device_map={"": "cpu"})
    alike(logits(model), logits(ms.load_model(path)))
    with pytest.raises(ModelLoadError, match="device_map divides a bridge"):
        ms.load_model(path, device="cpu", device_map="auto")
    for source, options in ((path, {"backend": "hooked"}), (toys.hf_model("llama"), {})):
        with pytest.raises(ModelLoadError, match="device_map divides a bridge"):
            ms.load_model(source, device_map="auto", **options)
    with pytest.raises(ModelLoadError, match="cannot load"):
        ms.load_model(path, device_map={"": "disk"})
