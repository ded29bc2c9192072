"""Loading HookedTransformer from Hugging Face folders, where TransformerLens still has it (up to version 3)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from mechsteer.errors import ModelLoadError
from mechsteer.models import library

_FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2", "gpt_neox": "neox"}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)


def has_tokenizer(folder: str | Path) -> bool:
    """The folder holds files of a tokenizer. (Transformers makes an empty one of a GPT-2 folder without.)"""
    return any((Path(folder) / name).is_file() for name in _TOKENIZER_FILES)


def load_hooked(source: str, device: Any, dtype: torch.dtype) -> Any:
    """A HookedTransformer of a folder, its weights as the checkpoint has them.

    Raises ModelLoadError for families it does not load, and where TransformerLens has no HookedTransformer.
    """
    if not library.has_hooked():
        raise ModelLoadError(
            "backend='hooked' needs the HookedTransformer of TransformerLens 3; version 4 has none",
            "use the bridge, or pip install 'transformer-lens<4'",
        )
    hf_config = library.AutoConfig.from_pretrained(source)
    family = hf_config.model_type
    if family not in _FAMILIES:
        raise ModelLoadError(
            f"backend='hooked' does not load the family {family!r}",
            f"it loads {sorted(_FAMILIES)}; use the bridge for others",
        )
    hf = library.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    has_none = Path(source).is_dir() and not has_tokenizer(source)
    tokenizer = None if has_none else library.AutoTokenizer.from_pretrained(source)
    cfg = library.HookedTransformerConfig(
        **_hooked_config(hf_config),
        model_name=Path(source).name,
        original_architecture=type(hf).__name__,
        dtype=dtype,
        device=str(device or "cpu"),
        init_weights=False,
        seed=None,
    )
    with torch.no_grad():
        state_dict = getattr(library, f"convert_{_FAMILIES[family]}_weights")(hf, cfg)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "HookedTransformer is deprecated", DeprecationWarning
            )  # asked for by name
            model = library.HookedTransformer(cfg, tokenizer)
        # Unprocessed: the residual basis and the weights' singular basis are the checkpoint's.
        model.load_and_process_state_dict(
            model.fill_missing_keys({k: v.clone() for k, v in state_dict.items()}),
            fold_ln=False,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
    model.__dict__["generation_config"] = (
        hf.generation_config
    )  # HookedTransformer has none: stop tokens are read from it
    return model


def _hooked_config(hf: Any) -> dict[str, Any]:
    """HookedTransformerConfig fields of one of the five families; the hub loaders of transformer_lens refuse local folders."""
    shared = {
        "d_model": hf.hidden_size,
        "n_layers": hf.num_hidden_layers,
        "n_heads": hf.num_attention_heads,
        "d_head": getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads,
        "d_vocab": hf.vocab_size,
        "n_ctx": hf.max_position_embeddings,
        "default_prepend_bos": hf.model_type in ("llama", "gpt2"),
    }
    if hf.model_type == "gpt2":
        return shared | {
            "d_mlp": hf.n_inner or 4 * hf.n_embd,
            "eps": hf.layer_norm_epsilon,
            "act_fn": hf.activation_function,
            "use_attn_scale": hf.scale_attn_weights,
            "scale_attn_by_inverse_layer_idx": hf.scale_attn_by_inverse_layer_idx,
            "normalization_type": "LN",
        }
    rope = hf.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise ModelLoadError(f"backend='hooked' does not load rope type {rope['rope_type']!r}", "use the bridge")
    rotary = {
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": int(rope["rope_theta"]),
        "rotary_dim": int(shared["d_head"] * rope.get("partial_rotary_factor", 1.0)),
        "d_mlp": hf.intermediate_size,
        "act_fn": hf.hidden_act,
    }
    if hf.model_type == "gpt_neox":
        return (
            shared
            | rotary
            | {
                "eps": hf.layer_norm_eps,
                "normalization_type": "LN",
                "parallel_attn_mlp": hf.use_parallel_residual,
            }
        )
    grouped = hf.num_key_value_heads != hf.num_attention_heads
    return (
        shared
        | rotary
        | {
            "eps": hf.rms_norm_eps,
            "normalization_type": "RMS",
            "final_rms": True,
            "gated_mlp": True,
            "n_key_value_heads": hf.num_key_value_heads if grouped else None,
            "use_qk_norm": hf.model_type == "qwen3",
        }
    )
