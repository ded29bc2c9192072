"""A singular steering as a LoRA: PEFT loads it on the plain model, to the logits of the steered one."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, StorageError
from mechsteer.models import MAPS
from mechsteer.steering import adapter_layers, lora, loss_layer, singular_steering

peft = pytest.importorskip("peft")
TOKENS = torch.tensor(toys.prompts(9, 9))


def noisy(steering, size=0.2):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in steering.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator))
    return steering


def steered(model, steering):
    with torch.no_grad(), ms.steer(model, steering):
        return model(TOKENS)


def in_peft(family, path):
    with torch.no_grad(), warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5 for a name that goes away with 6
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return peft.PeftModel.from_pretrained(toys.hf_model(family), path)(TOKENS).logits


@pytest.mark.parametrize(
    ("family", "maps", "ranks"),
    [("llama", MAPS, (4, 4)), ("qwen3", ("q", "down"), (3, 6)), ("gpt2", ("o", "up", "down"), (4, 5))],
)
def test_peft_has_the_logits_of_the_steered_model(family, maps, ranks, tmp_path):
    model = toys.shared(family)
    parts = [singular_steering(model, maps, [i], rank=r, rotate_u=True) for i, r in enumerate(ranks)]
    steering = noisy(ms.Steering([iv for part in parts for iv in part.interventions], coeff=-0.7))
    path = ms.export_lora(model, steering, tmp_path / "lora")
    expected = steered(model, steering)
    assert (expected - steered(model, ())).abs().max() > 1e-2
    torch.testing.assert_close(in_peft(family, path), expected, rtol=0, atol=5e-5)
    assert [each.name for each in tmp_path.iterdir()] == ["lora"]
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["r"] == max(ranks)
    assert bool(config["rank_pattern"]) == (len(set(ranks)) > 1)


def test_two_at_one_map_are_one_of_a_higher_rank(tmp_path):
    model = toys.shared("llama")
    both = [
        singular_steering(model, ["v"], [1], rank=3),
        singular_steering(model, ["v"], [1], triples=[3, 4], coeff=2.0),
    ]
    steering = noisy(ms.Steering([part.flat()[0] for part in both]))
    path = ms.export_lora(model, steering, tmp_path / "lora")
    assert json.loads((path / "adapter_config.json").read_text())["r"] == 5
    torch.testing.assert_close(in_peft("llama", path), steered(model, steering), rtol=0, atol=5e-5)


def full_disk(*_, **__):
    raise OSError(28, "No space left on device")


def test_what_no_lora_can_express_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    model = toys.shared("llama")
    good = singular_steering(model, ["q"], [1], rank=3)
    (iv,) = good.interventions
    scoped = ms.Intervention(iv.adapter, iv.site, read=iv.read, scope="generated")
    compatible, gpt2 = toys.shared("llama", "compatibility"), toys.shared("gpt2")
    for given, steering, message in (
        (model, ms.Intervention(ms.adapters.Static(toys.vector()), 1), "the adapter Static"),
        (model, scoped, "the scope"),
        (model, [], "nothing to export"),
        (compatible, singular_steering(compatible, ["q"], [1], rank=3), "compatibility mode"),
        (gpt2, singular_steering(gpt2, ["q"], [1], rank=3), "joined with others"),
    ):
        with pytest.raises(ConfigError, match=message):
            ms.export_lora(given, steering, tmp_path / "lora")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(ConfigError, match="is there already"):
        ms.export_lora(model, good, tmp_path / "full")
    monkeypatch.setattr(lora, "save_file", full_disk)
    with pytest.raises(StorageError, match="cannot write"):
        ms.export_lora(model, good, tmp_path / "lora")
    assert [each.name for each in tmp_path.iterdir()] == ["full"]


def test_a_hooked_transformer_has_no_such_names(tmp_path):
    model = toys.load("llama", "hooked")
    with pytest.raises(ConfigError, match="no module names of Hugging Face"):
        ms.export_lora(model, singular_steering(model, ["q"], [1], rank=3), tmp_path / "lora")


def test_layers_lie_below_the_loss():
    for n in range(2, 40):
        first_loss = loss_layer(n)
        for count in (None, 1, 2, 5):
            layers = adapter_layers(n, [first_loss, n - 1], count)
            assert layers == sorted(set(layers))
            assert 1 <= len(layers) <= (count or n)
            assert min(int(0.3 * n), first_loss - 1) == layers[0]
            assert layers[-1] == first_loss - 1 or count == 1
    assert adapter_layers(28, [25], 5) == [8, 12, 16, 20, 24]
    with pytest.raises(ConfigError, match="none is below it"):
        adapter_layers(1, [0])


def test_the_default_leaves_out_a_gate_that_is_not_there():
    points = {iv.site.point for iv in singular_steering(toys.shared("gpt2"), rank=2).interventions}
    assert points == {"q_out", "k_out", "v_out", "up_out"}
