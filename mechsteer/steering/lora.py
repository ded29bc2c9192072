"""Export of changes of matrices as a LoRA in PEFT's layout, which PEFT loads to equal logits.

    W x + ΔW x,   ΔW = B A  with A [rank d_in], B [d_out rank], and PEFT's scaling alpha / rank = 1

An adapter says that it is such a change by `low_rank`; the coefficient is multiplied in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.files import atomic_folder
from mechsteer.models import model_name
from mechsteer.models.maps import MapName, map_between
from mechsteer.models.modules import map_module
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.interventions import Intervention, Interventions, Observation, flatten
from mechsteer.steering.serving import CONFIG, WEIGHTS, require_vllm

Factors = tuple[Tensor, Tensor]  # A [rank d_in], B [d_out rank]


def export_lora(model: Any, steering: Interventions, path: str | Path, *, max_lora_rank: int | None = None) -> Path:
    """Write interventions over all tokens as a LoRA for the Hugging Face model inside `model`; returns the folder.

    `PeftModel.from_pretrained(hf_model, path)` has the logits of `model` under the steering. Several at one map add up
    to a higher rank. The folder appears whole or not at all.

    `max_lora_rank`: the setting of a vLLM server that is to load it; what vLLM would not load is refused
    (`mechsteer.steering.vllm_check` says of any folder whether it would).

    Raises ConfigError for adapters that are no low-rank change of a matrix, other scopes, observations, models that
    are no raw bridge, maps that the architecture holds joined, and a folder that holds something; StorageError.
    """
    factors: dict[MapName, Factors] = {}
    for iv in flatten(steering):
        target, found = _factors(iv, model)
        factors[target] = _joined(factors[target], found) if target in factors else found
    if not factors:
        raise ConfigError("there is nothing to export", "give a steering with a singular adapter")
    modules = {target: map_module(model, *target) for target in factors}
    ranks = {modules[target][0]: len(a) for target, (a, _) in factors.items()}
    stored = {is_transposed for _, is_transposed in modules.values()}
    with atomic_folder(path) as part:
        tensors = {}
        for target, (a, b) in factors.items():
            name = f"base_model.model.{modules[target][0]}"
            tensors |= {f"{name}.lora_A.weight": _plain(a), f"{name}.lora_B.weight": _plain(b)}
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        config = _config(model_name(model), ranks, is_transposed=stored == {True})
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if max_lora_rank is not None:
            kind = model.original_model.config.model_type
            require_vllm(part, model_type=kind, max_lora_rank=max_lora_rank)
    return Path(path)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def _joined(first: Factors, second: Factors) -> Factors:
    """Factors of the sum: B₁ A₁ + B₂ A₂."""
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]], 1)


def _factors(iv: Intervention | Observation, model: Any) -> tuple[MapName, Factors]:
    if isinstance(iv, Observation):
        raise _refusal("an observation", "leave it out: mechsteer.steering.writing(steering)")
    located, hint = iv.at(model), "export singular adapters at the output of their map, over all tokens"
    target, found = map_between(located.reads, located.site), iv.adapter.low_rank(iv.coeff)
    if found is None:
        raise _refusal(f"the adapter {type(iv.adapter).__name__}", hint)
    if target is None:
        raise _refusal(f"what is read at {located.reads[0]} and written at {located.site}", hint)
    if iv.scope != TokenScope.all():
        raise _refusal(f"the scope {iv.scope!r}", hint)
    return target, found


def _config(name: str, ranks: dict[str, int], *, is_transposed: bool) -> dict[str, Any]:
    """PEFT's adapter_config.json; where ranks differ each module has its own."""
    most = max(ranks.values())
    pattern = {} if len(set(ranks.values())) == 1 else dict(ranks)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "r": most,
        "lora_alpha": most,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": is_transposed,
        "inference_mode": True,
    }


def _refusal(what: str, hint: str) -> ConfigError:
    return ConfigError(f"a LoRA cannot express {what}", hint)
