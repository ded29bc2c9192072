"""Which model is this? A stable hash of configuration, processing and weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from mechsteer.errors import ModelMismatchError
from mechsteer.models.dispatch import backend_of

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
