"""`mechsteer configure`: sizes are the model's, batches are what memory holds, and a study reads what is written."""

from __future__ import annotations

import pytest
import torch
import toys
import yaml

import mechsteer as ms
from mechsteer import cli
from mechsteer.configs.settings import resolve
from mechsteer.errors import ConfigError, ModelLoadError
from mechsteer.models.size import ModelSize, model_size
from mechsteer.studies import configure as room
from mechsteer.studies.configure import GIB, configure


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_the_size_is_the_models(family):
    size, model = model_size(str(toys.folder(family))), toys.hf_model(family)
    assert size.n_params == sum(p.numel() for p in model.parameters())
    assert (size.n_layers, size.d_model, size.n_ctx, size.d_vocab) == (3, 32, toys.N_CTX, toys.D_VOCAB)
    cache = model(torch.tensor(toys.prompts(7)), use_cache=True).past_key_values
    keys = cache.layers[0].keys  # [batch head pos d_head]
    assert size.d_kv == keys.shape[1] * keys.shape[3]


def test_pocket():
    size, model = model_size("pocket"), ms.load_model("pocket")
    assert (size.d_model, size.n_layers, size.n_ctx) == (model.cfg.d_model, model.cfg.n_layers, model.cfg.n_ctx)
    with pytest.raises(ModelLoadError, match="no model folder at no/such/folder/here"):
        model_size("no/such/folder/here")


BIG = ModelSize(
    name="big", n_layers=28, d_model=1024, n_heads=16, d_kv=1024, n_ctx=40960, d_vocab=151936, n_params=596_049_920
)


@pytest.fixture
def big(monkeypatch):
    monkeypatch.setattr(room, "model_size", lambda _name: BIG)


def test_batches_grow_with_memory_and_fit(big):
    before = 0
    for memory in (3.0, 4.0, 6.0, 16.0, 80.0):
        made = configure("big", memory=memory).settings
        itemsize = {"float32": 4, "bfloat16": 2}[made["dtype"]]
        left = memory * GIB - BIG.weight_bytes(itemsize)
        assert made["batch_size"] == 1 or made["batch_size"] * BIG.gradient_bytes(656, itemsize) <= left / 2
        answered = made["evaluate.batch_size"]
        assert answered == 256 or 2 * answered * BIG.generation_bytes(656, itemsize) > left / 2  # no more would fit
        assert answered * BIG.generation_bytes(656, itemsize) <= left / 2
        assert made["batch_size"] >= before
        before = made["batch_size"]
        assert made["layers"] == [9, 14, 18]
    assert before == 8  # 16 rows with gradients would take more than 40 GiB
    assert configure("big", memory=3).settings["dtype"] == "bfloat16"
    assert configure("big", memory=16).settings["dtype"] == "float32"
    assert configure("big", memory=16).settings["sae.d_sae"] == 8192


def test_a_model_that_does_not_fit_is_refused(big):
    with pytest.raises(ConfigError, match=r"takes 1\.1 GiB in bfloat16, and there are 1\.0"):
        configure("big", memory=1)


def test_small_models_have_distinct_layers_of_their_own(monkeypatch):
    for n_layers in (1, 2, 3, 5):
        shallow = ModelSize(
            **{"name": "s", "n_layers": n_layers, "d_model": 8, "n_heads": 2, "d_kv": 8, "n_ctx": 64},
            **{"d_vocab": 10, "n_params": 100},
        )
        monkeypatch.setattr(room, "model_size", lambda _name, size=shallow: size)
        made = configure("s", memory=1).settings
        assert 1 <= len(set(made["layers"])) == len(made["layers"])
        assert max(made["layers"]) < n_layers
        assert made["max_new_tokens"] == 32


def test_a_study_reads_what_is_written(tmp_path, capsys):
    out = tmp_path / "pocket.yaml"
    assert cli.main(["configure", "model=pocket", "memory=8", f"out={out}"]) == 0
    assert f"mechsteer study config={out}" in capsys.readouterr().out
    settings = resolve(out)
    assert settings.model == "pocket"
    assert settings.sae.d_sae == 8 * 128
    assert settings.evaluate.batch_size == 256
    assert "d_model 128 (the SAE's d_in)" in out.read_text()
    assert cli.main(["configure", "model=pocket", f"out={out}"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["configure", "model=pocket", "memory=8"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(out.read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no model is given"),
        (["model=pocket", "memry=3"], "unknown key 'memry'"),
        (["model=pocket", "memory=much"], "memory is 'much'"),
        (["model=pocket", "device=cuda:99"], "device 'cuda:99' cannot be asked"),
        (["pocket"], "unknown key 'pocket'"),
    ],
)
def test_mistakes(words, message, capsys):
    assert cli.main(["configure", *words]) == 2
    assert message in capsys.readouterr().err


def test_free_memory_is_a_number_of_this_machine():
    assert 0 < room.free_memory() < 2**50
