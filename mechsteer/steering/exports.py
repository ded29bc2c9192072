"""Exports to other tools: static vectors as llama.cpp control vectors (GGUF)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mechsteer.errors import ConfigError
from mechsteer.files import atomic_path
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.interventions import Interventions, Observation, flatten

try:
    import gguf
except ImportError:  # an optional extra: the error comes when it is asked for
    gguf = None


def export_gguf(steering: Interventions, path: str | Path, *, model_hint: str = "") -> Path:
    """Write constant deltas (static vectors) at resid_post as a llama.cpp control vector; returns the path.

    llama.cpp adds `direction.L` [d_model] after block L, and has no direction for layer 0: a vector there
    raises ConfigError, as do other points, scopes other than all(), adapters that are not static, and observations.
    Vectors at one layer add up; coefficients are multiplied in. Needs the extra `mechsteer[gguf]`.
    """
    vectors: dict[int, torch.Tensor] = {}
    for iv in flatten(steering):
        if isinstance(iv, Observation):
            raise ConfigError(
                "a GGUF control vector cannot express an observation",
                "leave it out: mechsteer.steering.writing(steering)",
            )
        layer, bias = iv.site.layer, iv.adapter.as_bias(iv.coeff)
        if bias is None:
            raise _refusal(f"the adapter {type(iv.adapter).__name__}")
        if iv.site.point != "resid_post":
            raise _refusal(f"the point {iv.site.point}")
        if iv.scope != TokenScope.all():
            raise _refusal(f"the scope {iv.scope!r}")
        if isinstance(layer, float):
            raise _refusal(f"the depth ratio {layer}")
        if layer == 0:
            raise _refusal("layer 0")
        vectors[layer] = vectors.get(layer, torch.zeros(())) + bias.detach().float().cpu()
    if not vectors:
        raise ConfigError("there is no vector to export", "give at least one static intervention")
    library = require_gguf()
    with atomic_path(path) as part:
        writer = library.GGUFWriter(part, "controlvector")
        writer.add_string("controlvector.model_hint", model_hint)
        writer.add_uint32("controlvector.layer_count", len(vectors))
        for layer in sorted(vectors):
            writer.add_tensor(f"direction.{layer}", vectors[layer].numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return Path(path)


def require_gguf() -> Any:
    """The package gguf. Raises ConfigError where it is not installed."""
    if gguf is None:
        raise ConfigError("GGUF files need the package gguf", "pip install 'mechsteer[gguf]'")
    return gguf


def _refusal(what: str) -> ConfigError:
    return ConfigError(
        f"a GGUF control vector cannot express {what}",
        "it holds static vectors at resid_post of layers >= 1, for all tokens",
    )
