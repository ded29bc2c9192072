"""Which backend serves a model."""

from __future__ import annotations

from typing import Any

from mechsteer.errors import ModelLoadError
from mechsteer.models.backend import Backend
from mechsteer.models.bridge import BridgeNames, BridgeRunner, BridgeWeights, is_compatible
from mechsteer.models.hooked import HookedNames, HookedRunner, HookedWeights


def backend_of(model: Any) -> Backend:
    """The backend of a TransformerBridge or HookedTransformer, whoever built it.

    Raises ModelLoadError for anything else.
    """
    classes = [cls.__name__ for cls in type(model).__mro__]
    if "TransformerBridge" in classes:
        kind = "bridge-compatibility" if is_compatible(model) else "bridge"
        names = BridgeNames(model)
        return Backend(kind=kind, model=model, names=names, runner=BridgeRunner(names), weights=BridgeWeights(model))
    if "HookedTransformer" in classes:
        names = HookedNames(model)
        return Backend(
            kind="hooked", model=model, names=names, runner=HookedRunner(names), weights=HookedWeights(model)
        )
    raise ModelLoadError(
        f"{type(model).__name__} is neither a TransformerBridge nor a HookedTransformer",
        "wrap it: mechsteer.load_model(hf_model_or_path)",
    )
