"""Which model is this? A stable hash of configuration, processing and weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ModelMismatchError, UnknownSiteError
from mechsteer.models.dispatch import backend_of
from mechsteer.models.protocol import MAPS

_CONFIG = (
    *(
        "n_layers",
        "d_model",
        "n_heads",
        "n_key_value_heads",
        "d_head",
        "d_mlp",
        "d_vocab",
        "n_ctx",
        "act_fn",
        "eps",
    ),
    *(
        "positional_embedding_type",
        "rotary_base",
        "rotary_dim",
        "gated_mlp",
        "parallel_attn_mlp",
        "final_rms",
    ),
)
_SAMPLES = 64  # entries read of each weight: enough to tell any two checkpoints apart, fast on any size


def model_fingerprint(model: Any) -> str:
    """A stable hash (24 hex digits) of config, processing flags and weights of either class.

    64 evenly spaced entries of every weight are read, so it takes milliseconds. The same folder loaded in
    another process gives the same fingerprint; another backend, mode or dtype of the same checkpoint does
    not, because directions and singular bases do not carry over.
    """
    backend = backend_of(model)
    config = {key: _plain(getattr(backend.cfg, key, None)) for key in _CONFIG}
    digest = hashlib.sha256(json.dumps([backend.kind, backend.weights.processing(), config], sort_keys=True).encode())
    for name, weight in sorted(backend.weights.named_weights().items()):
        flat = weight.detach().reshape(-1)
        index = torch.linspace(0, flat.numel() - 1, min(_SAMPLES, flat.numel()), dtype=torch.float64).long()
        sample = flat[index.to(flat.device)].to("cpu", torch.float32)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:24]


def checkpoint_fingerprint(model: Any) -> str:
    """A stable hash (24 hex digits) of the checkpoint alone: the same on either class, raw, in float32 and bfloat16.

    64 evenly spaced entries of each of MAPS in every layer are read, as W [d_out d_in] rounded to bfloat16. Rounding
    to float16 on the way changes some of them, and what folds norms into weights (compatibility mode) all.
    """
    backend, digest = backend_of(model), hashlib.sha256()
    for layer in range(backend.cfg.n_layers):
        for name in MAPS:
            found = map_entries(backend, layer, name, _SAMPLES)
            if found is not None:
                shape, entries = found
                digest.update(f"{layer} {name} {shape}".encode())
                digest.update(entries.to(torch.bfloat16).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]


def map_fingerprint(model: Any, layer: int, name: str) -> str:
    """A stable hash (16 hex digits) of one map W [d_out d_in]: the same on either class, raw, in float32 and bfloat16.

    Of its shape and 64 evenly spaced entries, rounded as in `checkpoint_fingerprint`. Raises UnknownSiteError.
    """
    backend = backend_of(model)
    found = map_entries(backend, layer, name, _SAMPLES)
    if found is None:
        raise UnknownSiteError(f"this model has no map {name!r} in layer {layer}", f"maps are {list(MAPS)}")
    digest = hashlib.sha256(str(found[0]).encode())
    digest.update(found[1].to(torch.bfloat16).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def map_entries(backend: Any, layer: int, name: str, n: int) -> tuple[tuple[int, ...], Tensor] | None:
    """(shape, at most `n` evenly spaced entries, on the CPU) of W [d_out d_in]; None where there is no such map."""
    try:
        weight = backend.weights.map_weight(layer, name).detach()
    except UnknownSiteError:  # this architecture has no such map
        return None
    flat = weight.reshape(-1)
    index = torch.linspace(0, flat.numel() - 1, min(n, flat.numel()), dtype=torch.float64).long()
    return tuple(weight.shape), flat[index.to(flat.device)].cpu()


def model_name(model: Any) -> str:
    """The model's name for readers (the fingerprint is what counts): of a local folder only its last part."""
    name = str(getattr(model.cfg, "model_name", ""))
    return Path(name).name if Path(name).is_absolute() else name


def require_fingerprint(model: Any, fingerprint: str, what: str) -> None:
    """Raise ModelMismatchError, naming both fingerprints, unless `model` is the one `what` was made for."""
    own = model_fingerprint(model)
    if own != fingerprint:
        raise ModelMismatchError(
            f"{what} was made for the model with fingerprint {fingerprint}, this model has {own}",
            "load the model it was made for: same checkpoint, backend, mode and dtype, with nothing folded in",
        )


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
