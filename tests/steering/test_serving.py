"""What vLLM says of a LoRA folder: its rules by hand, and its arithmetic beside PEFT's."""

from __future__ import annotations

import json

import pytest
import torch
import toys
from safetensors.torch import load_file, save_file

import mechsteer as ms
from mechsteer.errors import ConfigError, FileFormatError
from mechsteer.steering import require_vllm, singular_steering, vllm_check

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def noisy(steering):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in steering.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return steering


def exported(path, family="llama", maps=("q", "down"), ranks=(3, 5), **options):
    model = toys.shared(family)
    parts = [singular_steering(model, list(maps), [i], rank=r) for i, r in enumerate(ranks)]
    steering = noisy(ms.Steering([iv for part in parts for iv in part.interventions]))
    return steering, ms.export_lora(model, steering, path / "lora", **options)


def changed(path, tensors=None, **settings):
    config = json.loads((path / CONFIG).read_text()) | settings
    (path / CONFIG).write_text(json.dumps(config))
    if tensors is not None:
        save_file(tensors(load_file(path / WEIGHTS)), path / WEIGHTS)
    return path


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_folder_loads_and_its_one_strength_gives_the_steered_logits(family, tmp_path):
    steering, path = exported(tmp_path, family, max_lora_rank=8)
    found = require_vllm(path, model_type=family, max_lora_rank=8)
    assert (found.rank, found.max_lora_rank, len(found.modules)) == (5, 8, 4)
    config, tensors = json.loads((path / CONFIG).read_text()), load_file(path / WEIGHTS)
    plain, tokens = toys.hf_model(family), torch.tensor(toys.prompts(9, 9))
    with torch.no_grad():
        for module in found.modules:  # as vLLM: r and lora_alpha alone
            a, b = (tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
            plain.get_submodule(module).weight += config["lora_alpha"] / config["r"] * b @ a
        with ms.steer(toys.shared(family), steering):
            expected = toys.shared(family)(tokens)
        torch.testing.assert_close(plain(tokens).logits, expected, rtol=0, atol=5e-5)


def renamed(name, new):
    return lambda tensors: {key.replace(name, new): value for key, value in tensors.items()}


def without_b(tensors):
    gone = next(name for name in tensors if "lora_B" in name)
    return {name: value for name, value in tensors.items() if name != gone}


@pytest.mark.parametrize(
    ("tensors", "settings", "problem"),
    [
        (None, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
        (None, {"bias": "lora_only"}, "bias is 'lora_only'"),
        (None, {"use_dora": True}, "use_dora"),
        (None, {"r": 600, "lora_alpha": 600}, "rank 600 is above max_lora_rank 512"),
        (None, {"lora_alpha": 10, "alpha_pattern": {}, "rank_pattern": {}}, None),
        (None, {"lora_alpha": 10, "alpha_pattern": {"q_proj": 5}, "rank_pattern": {}}, "reads no patterns"),
        (None, {"use_rslora": True, "alpha_pattern": {}}, "reads no patterns"),
        (None, {"r": 4, "lora_alpha": 4, "rank_pattern": {}, "alpha_pattern": {}}, "above the r of 4"),
        (None, {"peft_type": "VERA"}, "it is a VERA"),
        (renamed("lora_A", "lora_magnitude"), {}, "has no place"),
        (renamed("q_proj", "qkv_proj"), {}, "has no map for model.layers.0.self_attn.qkv_proj"),
        (without_b, {}, "has one of lora_A and lora_B alone"),
    ],
)
def test_what_does_not_load_is_said(tensors, settings, problem, tmp_path):
    path = changed(exported(tmp_path)[1], tensors, **settings)
    found = vllm_check(path, model_type="llama")
    assert found.loads == (problem is None)
    if problem is not None:
        assert any(problem in text for text in found.problems)
        with pytest.raises(ConfigError, match="vLLM would not load this LoRA"):
            require_vllm(path, model_type="llama")


def test_all_that_is_wrong_stands_in_one_message(tmp_path):
    path = changed(exported(tmp_path)[1], bias="all", use_dora=True)
    with pytest.raises(ConfigError, match=r"bias is 'all'.*; use_dora is true"):
        require_vllm(path)


def test_an_export_for_a_server_that_would_not_load_it_writes_nothing(tmp_path):
    with pytest.raises(ConfigError, match="its rank 12 is above max_lora_rank 8"):
        exported(tmp_path, ranks=(12, 3), max_lora_rank=8)
    with pytest.raises(ConfigError, match="puts no LoRA on a gpt2"):
        exported(tmp_path, "gpt2", maps=("o", "up"), max_lora_rank=16)
    with pytest.raises(ConfigError, match="vLLM has no max_lora_rank 20"):
        exported(tmp_path, max_lora_rank=20)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_lora_folder(tmp_path):
    with pytest.raises(FileFormatError, match="is no LoRA folder"):
        vllm_check(tmp_path)
    path = exported(tmp_path)[1]
    (path / CONFIG).write_text("{}")
    with pytest.raises(FileFormatError, match="has no r, lora_alpha, target_modules"):
        vllm_check(path)


@pytest.mark.parametrize(("rank", "smallest"), [(1, 1), (2, 8), (8, 8), (9, 16), (257, 320), (513, None)])
def test_the_smallest_setting_of_a_server(rank, smallest, tmp_path):
    path = changed(exported(tmp_path)[1], r=rank, lora_alpha=rank)
    assert vllm_check(path).max_lora_rank == smallest
