"""Which backend serves a model."""

from __future__ import annotations

from typing import Any

from mechsteer.errors import ModelLoadError
from mechsteer.models.backend import Backend
from mechsteer.models.bridge import BridgeBackend
from mechsteer.models.hooked import HookedBackend

_BACKENDS: dict[str, type[Backend]] = {"TransformerBridge": BridgeBackend, "HookedTransformer": HookedBackend}


def backend_of(model: Any) -> Backend:
    """The backend of a TransformerBridge or HookedTransformer, whoever built it.

    Raises ModelLoadError for anything else.
    """
    for cls in type(model).__mro__:
        if cls.__name__ in _BACKENDS:
            return _BACKENDS[cls.__name__](model)
    raise ModelLoadError(
        f"{type(model).__name__} is neither a TransformerBridge nor a HookedTransformer",
        "wrap it: mechsteer.load_model(hf_model_or_path)",
    )
