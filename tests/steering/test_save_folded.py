"""A folded model as a folder: transformers alone loads it, to the logits of the steered model."""

from __future__ import annotations

import pytest
import torch
import toy_adapters  # noqa: F401  # registers the toys
import toys
from transformers import AutoModelForCausalLM, AutoTokenizer

import mechsteer as ms
from mechsteer.errors import ConfigError, StorageError
from mechsteer.models import saving
from mechsteer.steering.presets import untrained

TOKENS = torch.tensor(toys.prompts(9, 9))


def static(point="resid_post", layer=1, coeff=1.5, seed=1):
    return ms.Intervention(ms.adapters.Static(toys.vector(seed)), ms.Site(layer, point), coeff=coeff)


def logits(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(TOKENS).logits


def steered_by(model, steering):
    with torch.no_grad(), ms.steer(model, steering):
        return model(TOKENS)


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_transformers_loads_it_to_equal_logits(family, tmp_path):
    model = toys.load(family)
    steering = ms.Steering([static(), static("attn_out", 0, -1.0, 2)], coeff=0.8)
    before, steered = steered_by(model, ()), steered_by(model, steering)
    path = ms.save_folded(model, tmp_path / "folded", steering)
    assert (steered - before).abs().max() > 1e-2
    torch.testing.assert_close(logits(path), steered, rtol=0, atol=5e-5)
    assert torch.equal(steered_by(model, ()), before)
    assert ms.model_fingerprint(model) == ms.model_fingerprint(toys.load(family))
    assert [each.name for each in tmp_path.iterdir()] == ["folded"]
    again = ms.load_model(path)
    torch.testing.assert_close(steered_by(again, ()), steered, rtol=0, atol=5e-5)


def test_what_is_folded_already_is_saved_with_its_tokenizer(tmp_path):
    model = ms.load_model("pocket")
    vector = 2 * torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    steering = ms.Intervention(ms.adapters.Static(vector), ms.Site(0.5, "attn_out"))
    expected = ms.generate(model, ["Tom has 3 apples."], steering, max_new_tokens=8).texts
    ms.fold(model, steering)
    (tmp_path / "folder").mkdir()  # an empty one will do
    path = ms.save_folded(model, tmp_path / "folder")
    assert ms.generate(ms.load_model(path), ["Tom has 3 apples."], max_new_tokens=8).texts == expected
    text = "Tom has 3 apples. Is he happy?"
    assert AutoTokenizer.from_pretrained(path).encode(text) == model.tokenizer.encode(text)
    assert AutoModelForCausalLM.from_pretrained(path).generation_config.eos_token_id == (
        model.original_model.generation_config.eos_token_id
    )


def test_a_change_of_a_matrix_is_saved(tmp_path):
    model = toys.load("qwen3")
    iv = untrained(model, "toy_low_rank", ms.Site(1, "down_out"), read=ms.Site(1, "down_in"))
    with torch.no_grad():
        for p in iv.adapter.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    steered = steered_by(model, iv)
    assert (steered - steered_by(model, ())).abs().max() > 1e-2
    torch.testing.assert_close(logits(ms.save_folded(model, tmp_path / "f", iv)), steered, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("family", "kind", "make", "message"),
    [
        ("qwen3", "bridge", static, "the architecture qwen3 of transformers has no model.layers.1.mlp.down_proj.bias"),
        ("gpt2", "bridge", lambda: static("q_out"), "does not give the bridge's logits"),
        ("llama", "compatibility", static, "a bridge-compatibility model cannot be saved"),
        ("llama", "hooked", static, "a hooked model cannot be saved"),
        ("llama", "bridge", lambda: (), "nothing is folded into this model"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_leaves_nothing(family, kind, make, message, tmp_path):
    model = toys.load(family, kind)
    fingerprint = ms.model_fingerprint(model)
    with pytest.raises(ConfigError, match=message):
        ms.save_folded(model, tmp_path / "folded", make())
    assert list(tmp_path.iterdir()) == []
    assert ms.model_fingerprint(model) == fingerprint


def test_nothing_is_written_over_and_nothing_half_written(tmp_path, monkeypatch):
    model, path = toys.load("llama"), tmp_path / "folded"
    path.mkdir()
    (path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="is there already"):
        ms.save_folded(model, path, static())
    assert (path / "mine.txt").read_text() == "x"

    def full(self, folder, *args, **options):
        folder.mkdir()
        (folder / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.PreTrainedModel, "save_pretrained", full)
    with pytest.raises(StorageError, match="No space left"):
        ms.save_folded(model, tmp_path / "other", static())
    assert [each.name for each in tmp_path.iterdir()] == ["folded"]
