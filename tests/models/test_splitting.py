"""A model on several devices: what steers a block, and what the block is told, lies where the block does."""

from __future__ import annotations

import contextlib

import pytest
import split_toys
import torch
import toys
from split_toys import FIRST, SECOND, split_model

import mechsteer as ms
from mechsteer.adapters import named
from mechsteer.errors import ConfigError, ModelLoadError
from mechsteer.models import backend_of, load_model
from mechsteer.models.splitting import follow_devices, to_device
from mechsteer.runtime import restart
from mechsteer.runtime.batches import Batch
from mechsteer.runtime.restart import run_from, start_from
from mechsteer.runtime.session import Session

KINDS = ("static", "gru", "drab", "dictionary", "gated")


def fresh(kind):
    made = ms.adapters.Static(toys.vector(1)) if kind == "static" else named(kind).fresh(toys.D_MODEL, toys.D_MODEL)
    return made.requires_grad_(True)


def intervention(adapter, layer, device, **options):
    split_toys.place(adapter, device)
    return ms.Intervention(adapter, layer, **options)


def run(engine, owner, iv):
    """A prompt, then a token under its cache; nothing asks for a number."""
    tokens = torch.zeros(2, 5, dtype=torch.long)
    session = Session(engine, [iv], owner=owner)
    session.has_touched = [True]
    session.open()
    try:
        with torch.no_grad():
            logits, cache = engine.runner.forward(tokens, None, None, use_cache=True)
            later, cache = engine.runner.forward(tokens[:, :1], None, cache, use_cache=True)
            engine.runner.select_rows(cache, torch.tensor([1]))
    finally:
        session.close()
    assert session.fired == [2]
    return logits, later


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["bridge", "twin"])
def test_an_adapter_at_a_block_of_the_second_device(engine, kind):
    adapter = fresh(kind)
    with split_model() as (model, twin):
        runs = backend_of(model) if engine == "bridge" else twin
        assert [runs.device_at(i) for i in range(toys.N_LAYERS)] == [FIRST, SECOND, SECOND]
        for scope in ("all", "generated"):
            for logits in run(runs, model, intervention(adapter, 1, SECOND, scope=scope)):
                assert logits.device == FIRST


@pytest.mark.parametrize("kind", ["static", "gated"])
def test_one_that_reads_on_the_first_and_writes_on_the_second(kind):
    adapter = fresh(kind)
    with split_model(at=2) as (model, _):
        iv = intervention(adapter, 2, SECOND, read=ms.Site(0, "resid_post"), scope="generated")
        assert run(backend_of(model), model, iv)[0].device == FIRST


def test_one_elsewhere_than_its_block_is_refused():
    adapter = fresh("static")
    with split_model() as (model, _):
        iv = intervention(adapter, 1, FIRST)
        with pytest.raises(ConfigError, match="Static is on cpu, the model on meta"):
            Session(backend_of(model), [iv])
        Session(backend_of(model), [ms.Intervention(adapter, 0)])


def test_a_step_of_training_begins_behind_the_first_block(monkeypatch):
    monkeypatch.setattr(restart, "hints", lambda *_: contextlib.nullcontext())  # prompt lengths would be asked for
    adapter = fresh("static")
    with split_model() as (model, _):
        tokens = torch.zeros(2, 5, dtype=torch.long)
        batch = Batch(
            tokens=tokens,
            mask=torch.ones_like(tokens).bool(),
            prompt_lengths=torch.tensor([5, 5]),
            rows=torch.arange(2),
        )
        batch.__dict__["attention_mask"] = None
        start = start_from(model, batch, n_skipped=2)
        assert start.resid is not None
        assert start.resid.device == SECOND
        where = torch.tensor([0, 1]), torch.tensor([2, 4])
        with ms.steer(model, intervention(adapter, 2, SECOND, scope="all")):
            logits = run_from(model, batch, start, unembed_at=where)
            assert logits.device == FIRST
            assert logits.shape == (1, 2, toys.D_VOCAB)
            logits.sum().backward()
        assert adapter.vector.grad.device == SECOND


def test_adapters_are_made_and_loaded_where_their_block_is(tmp_path):
    model = toys.load("llama")
    file = ms.save_steering(ms.Intervention(fresh("static"), 1), tmp_path / "s", model)
    model.cfg.n_devices = 2
    asked = []
    backend = type(backend_of(model))
    was = backend.device_at
    try:
        backend.device_at = lambda self, layer: (asked.append(layer), was(self, layer))[1]
        ms.load_steering(file, model)
        ms.steering.presets.untrained(model, "gated", 2)
    finally:
        backend.device_at = was
    assert asked == [1, 2]


def test_parts_of_a_plain_module_follow():
    hf = toys.hf_model("llama")
    tokens = torch.tensor(toys.prompts(5, 5))
    expected = hf(tokens).logits
    follow_devices(hf, ["model.embed_tokens", "model.layers.1", "lm_head", "model.rotary_emb"])
    assert torch.equal(hf(tokens).logits, expected)
    moved = to_device({"a": (torch.ones(1), [torch.ones(2)]), "b": "text"}, torch.device("meta"))
    assert (moved["a"][0].device.type, moved["a"][1][0].device.type, moved["b"]) == ("meta", "meta", "text")


def test_a_device_map_of_one_device_is_the_model():
    tokens = torch.tensor([[5, 6, 7]])
    placed = load_model(toys.folder("llama"), device_map={"": "cpu"})
    assert torch.equal(placed(tokens), load_model(toys.folder("llama"))(tokens))


@pytest.mark.parametrize("options", [{"backend": "hooked"}, {"device": "cpu"}])
def test_what_a_device_map_cannot_be_given_with(options):
    with pytest.raises(ModelLoadError, match="device_map divides a bridge"):
        load_model(toys.folder("llama"), device_map="auto", **options)
    with pytest.raises(ModelLoadError, match="device_map divides a bridge"):
        load_model(toys.hf_model("llama"), device_map="auto")
