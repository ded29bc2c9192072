"""What mechsteer uses of transformer_lens and of transformers' models; the only file that imports transformer_lens.

Use its names through the module (`library.TransformerBridge`): each is loaded when it is first asked for. They take
seconds, and what only reads results needs none of them.
"""

from __future__ import annotations

import importlib
from typing import Any

_WEIGHTS = "transformer_lens.pretrained.weight_conversions"
_PLACES = {
    "TransformerBridge": "transformer_lens.model_bridge",
    "NativeModel": "transformer_lens.model_bridge.sources.native",
    "HookPoint": "transformer_lens.hook_points",
    "TransformerLensKeyValueCache": "transformer_lens.cache.key_value_cache",
    **{name: "transformer_lens" for name in ("HookedTransformer", "HookedTransformerConfig")},
    **{f"convert_{name}_weights": f"{_WEIGHTS}.{name}" for name in ("llama", "qwen2", "qwen3", "gpt2", "neox")},
    **{name: "transformers" for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "PreTrainedModel")},
    "PreTrainedTokenizerFast": "transformers",
    "logging": "transformers.utils",
}


def has_hooked() -> bool:
    """There is a HookedTransformer in the TransformerLens that is installed: up to version 3."""
    try:
        return hasattr(importlib.import_module("transformer_lens"), "HookedTransformer")
    except ImportError:  # what version 4 raises for names that are gone
        return False


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value
