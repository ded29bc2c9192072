"""Transformers made of given weights, without a checkpoint: bridges of TransformerLens' own module.

Weights go by HookedTransformer's names and shapes, whatever TransformerLens is installed:

    embed.W_E [d_vocab d_model]            pos_embed.W_pos [n_ctx d_model]
    blocks.i.attn.W_Q, W_K, W_V [head d_model d_head]    W_O [head d_head d_model]    b_Q, b_K, b_V [head d_head]    b_O [d_model]
    blocks.i.mlp.W_in [d_model d_mlp]      W_out [d_mlp d_model]    b_in [d_mlp]    b_out [d_model]
    unembed.W_U [d_model d_vocab_out]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import einops
import torch
from torch import Tensor

from mechsteer.errors import ModelLoadError
from mechsteer.models import library
from mechsteer.models.bridge import clean_name
from mechsteer.models.load import load_model

_HEADS = {"W_Q": "q", "W_K": "k", "W_V": "v"}
_MLP = {"in": "fc_in", "out": "fc_out"}


def native_model(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32
) -> Any:
    """A frozen TransformerBridge with these weights; what is not given is zero.

    `config`: the fields of TransformerLens' configuration (d_model, n_layers, n_heads, d_head, d_mlp, n_ctx, d_vocab,
    act_fn, attention_dir, ...). Defaults: no norm, no gate, learned positions, causal.
    Raises ModelLoadError for a weight that the model does not have, or of another shape.
    """
    plain = {
        "gated_mlp": False,
        "normalization_type": None,
        "final_rms": False,
        "positional_embedding_type": "standard",
    }
    with torch.random.fork_rng(devices=[]):  # its layers are drawn from the global generator before they are replaced
        model = library.TransformerBridge.boot_native({**plain, **config, "init_weights": False}, dtype=dtype)
    wanted = dict(_stored(name, value) for name, value in weights.items())
    with torch.no_grad():
        for name, parameter in model.original_model.named_parameters():
            value = wanted.pop(clean_name(name), None)
            if value is not None and value.shape != parameter.shape:
                raise ModelLoadError(
                    f"the weight of {clean_name(name)} is {list(value.shape)}, the model's {list(parameter.shape)}",
                    "give shapes that agree with the configuration",
                )
            parameter.copy_(torch.zeros(()) if value is None else value)
    unknown = [name for name, value in wanted.items() if bool(value.any())]
    if unknown:
        raise ModelLoadError(f"the model has no {unknown}", "see the names in mechsteer.models.native")
    return load_model(model)


def _stored(name: str, value: Tensor) -> tuple[str, Tensor]:
    """(name in the module, value as it is stored there) of a weight by its HookedTransformer name."""
    *path, last = name.split(".")
    kind, _, end = last.partition("_")
    stored = "weight" if kind == "W" else "bias"
    if path == ["embed"]:
        return "tok_embed.weight", value
    if path == ["pos_embed"]:
        return "pos.weight", value
    if path == ["unembed"]:
        return f"head.{stored}", value if value.ndim == 1 else value.T
    if len(path) != 3 or path[0] != "blocks":
        raise ModelLoadError(f"no weight {name!r}", "see the names in mechsteer.models.native")
    at = f"layers.{path[1]}.{path[2]}"
    if path[2] == "mlp":
        return f"{at}.{_MLP.get(end, end)}.{stored}", value if value.ndim == 1 else value.T
    if last in _HEADS:
        value = einops.rearrange(value, "head d_model d_head -> (head d_head) d_model")
    elif last == "W_O":
        value = einops.rearrange(value, "head d_head d_model -> d_model (head d_head)")
    elif last != "b_O":
        value = value.reshape(-1)
    return f"{at}.{end.lower()}.{stored}", value


def random_model(config: Mapping[str, Any], *, seed: int, scale: float = 4.0) -> Any:
    """A frozen random bridge: gated, RMSNorm, rotary unless `config` says otherwise, and a function of `seed`.

    Weights are TransformerLens' initial ones times `scale`, so that layers matter.
    """
    gated = {"act_fn": "silu", "gated_mlp": True, "normalization_type": "RMS", "final_rms": True}
    shape = {**gated, "positional_embedding_type": "rotary", "seed": seed, **config}
    model = library.TransformerBridge.boot_native(shape)
    with torch.no_grad():
        for name, parameter in model.original_model.named_parameters():
            if "ln" not in name and not name.endswith("bias"):
                parameter.mul_(scale)
    return load_model(model)
