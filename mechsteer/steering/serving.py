"""Whether vLLM would load a LoRA folder, and give it the strength that PEFT does; read from the folder alone.

vLLM's rules, as its sources have them (vllm/lora/peft_helper.py, lora_model.py, utils.py; vllm/config/lora.py):

- `r`, `lora_alpha` and `target_modules` are there; `modules_to_save` is none, `bias` is "none", `use_dora` is false;
- `r` is at most `max_lora_rank`, a setting of the server's that is one of MAX_LORA_RANKS (16 unless it is given);
- weights lie in adapter_model.safetensors, named `base_model.model.<module>.lora_A.weight` and `lora_B.weight`;
- a module's last name is one of the model's linear maps; GPT-2 and GPT-NeoX take no LoRA at all;
- one strength for all, lora_alpha / r (/ √r with rsLoRA): `rank_pattern` and `alpha_pattern` are not read.

What breaks the last rule loads and is wrong without a word, so that it counts as one that does not load.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mechsteer.errors import ConfigError, FileFormatError
from mechsteer.results import Result

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_REQUIRED = ("r", "lora_alpha", "target_modules")
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_GATED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# kind of model (config.json's model_type) -> the maps that vLLM puts a LoRA on; others are not checked
MAPS_OF: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _GATED),
    **{"gpt2": (), "gpt_neox": ()},
}


@dataclass(frozen=True, kw_only=True)
class VllmCheck(Result):
    """What vLLM would say of a folder."""

    rank: int
    max_lora_rank: int | None  # the smallest setting of the server that takes it; None where none does
    modules: list[str]
    problems: list[str]  # none: it loads, as strong as in PEFT

    @property
    def loads(self) -> bool:
        """It loads, and is what PEFT makes of it."""
        return not self.problems


def vllm_check(folder: str | Path, *, model_type: str | None = None, max_lora_rank: int | None = None) -> VllmCheck:
    """Check a LoRA folder against vLLM's rules; neither vLLM nor the model is needed.

    `model_type`: of the base model's config.json ("llama", "qwen3"); without it names of maps are not checked.
    `max_lora_rank`: the server's setting, where it is fixed. Raises FileFormatError for what is no LoRA folder,
    ConfigError for a setting that vLLM does not have.
    """
    if max_lora_rank is not None and max_lora_rank not in MAX_LORA_RANKS:
        raise ConfigError(f"vLLM has no max_lora_rank {max_lora_rank}", f"it is one of {list(MAX_LORA_RANKS)}")
    config, shapes = _read(Path(folder))
    if missing := [key for key in _REQUIRED if key not in config]:
        raise FileFormatError(f"{Path(folder) / CONFIG} has no {', '.join(missing)}", "save it again with PEFT")
    modules = sorted({found["module"] for name in shapes if (found := _NAME.fullmatch(name))})
    fitting = next((most for most in MAX_LORA_RANKS if config["r"] <= most), None)
    problems = [
        *_features(config),
        *_rank(config["r"], max_lora_rank or MAX_LORA_RANKS[-1]),
        *_names(shapes),
        *_maps(modules, model_type),
        *_strengths(config, modules, shapes),
    ]
    return VllmCheck(rank=config["r"], max_lora_rank=fitting, modules=modules, problems=problems)


def require_vllm(folder: str | Path, *, model_type: str | None = None, max_lora_rank: int | None = None) -> VllmCheck:
    """The check. Raises ConfigError with all that keeps vLLM from loading the folder, and as `vllm_check` does."""
    found = vllm_check(folder, model_type=model_type, max_lora_rank=max_lora_rank)
    if not found.loads:
        raise ConfigError(
            f"vLLM would not load this LoRA: {'; '.join(found.problems)}",
            "export fewer triples or other maps, serve the model with the steering folded in (mechsteer.save_folded), "
            "or use it with PEFT, which takes it",
        )
    return found


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The configuration, and the shape of each tensor."""
    hint = "give a folder of mechsteer.export_lora or of PEFT's save_pretrained"
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise FileFormatError(f"{folder} is no LoRA folder: {error}", hint) from error
    if not isinstance(config, dict):
        raise FileFormatError(f"{folder / CONFIG} holds no settings", hint)
    return config, shapes


def _features(config: Mapping[str, Any]) -> list[str]:
    found = []
    if config.get("peft_type", "LORA") != "LORA":
        found.append(f"it is a {config['peft_type']}, not a LoRA")
    if config.get("modules_to_save"):
        found.append(f"modules_to_save is {config['modules_to_save']}: whole modules are not loaded")
    if config.get("bias", "none") != "none":
        found.append(f"bias is {config['bias']!r}: biases are not loaded")
    if config.get("use_dora"):
        found.append("use_dora is true")
    return found


def _rank(rank: int, most: int) -> list[str]:
    return [] if rank <= most else [f"its rank {rank} is above max_lora_rank {most}"]


def _names(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    unknown = [name for name in shapes if not _NAME.fullmatch(name)]
    found = [f"the tensor {unknown[0]} has no place ({len(unknown)} such)"] if unknown else []
    sides: dict[str, set[str]] = {}
    for name in shapes:
        if part := _NAME.fullmatch(name):
            sides.setdefault(part["module"], set()).add(part["side"])
    halves = [module for module, both in sides.items() if both != {"A", "B"}]
    return [*found, *([f"{halves[0]} has one of lora_A and lora_B alone"] if halves else [])]


def _maps(modules: Sequence[str], model_type: str | None) -> list[str]:
    if model_type is None or model_type not in MAPS_OF:
        return []
    if not (known := MAPS_OF[model_type]):
        return [f"vLLM puts no LoRA on a {model_type}"]
    foreign = [module for module in modules if module.rpartition(".")[2] not in known]
    return [f"a {model_type} has no map for {foreign[0]} in vLLM"] if foreign else []


def _strengths(config: Mapping[str, Any], modules: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """vLLM's one strength beside PEFT's, which is each module's own."""
    found = []
    theirs = _scale(config["lora_alpha"], config["r"], config)
    for module in modules:
        rank = _of(config.get("rank_pattern"), module, config["r"])
        ours = _scale(_of(config.get("alpha_pattern"), module, config["lora_alpha"]), rank, config)
        if not math.isclose(ours, theirs, rel_tol=1e-6):
            found.append(f"{module} has strength {ours:g} in PEFT and {theirs:g} in vLLM, which reads no patterns")
        shape = shapes.get(f"base_model.model.{module}.lora_A.weight")
        if shape is not None and shape[0] > config["r"]:
            found.append(f"{module} has rank {shape[0]}, above the r of {config['r']} that vLLM goes by")
    return found


def _scale(alpha: float, rank: int, config: Mapping[str, Any]) -> float:
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of(pattern: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """PEFT's rule: the first key that is the end of the module's name, from a dot on."""
    return next((v for key, v in (pattern or {}).items() if re.fullmatch(rf"(.*\.)?({key})", module)), otherwise)
