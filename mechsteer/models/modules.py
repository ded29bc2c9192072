"""Where a map lives in the Hugging Face model that a bridge was made of: what other tools call it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mechsteer.errors import ConfigError
from mechsteer.models import library
from mechsteer.models.bridge import BridgeWeights, clean_name, is_compatible
from mechsteer.models.dispatch import backend_of


def map_module(model: Any, layer: int, name: str) -> tuple[str, bool]:
    """(module path, it is stored [d_in d_out]) of one of MAPS in the plain Hugging Face model.

    ("model.layers.3.self_attn.q_proj", False), say. Raises ConfigError for models that are no raw bridge of a Hugging
    Face model, and for a map that the architecture holds joined with others (GPT-2's q, k and v), UnknownSiteError.
    """
    weights: Any = backend_of(model).weights
    wrapped: Any = getattr(model, "original_model", None)
    if not isinstance(weights, BridgeWeights) or not isinstance(wrapped, library.PreTrainedModel):
        raise ConfigError(f"a {backend_of(model).kind} model has no module names of Hugging Face", _RAW)
    if is_compatible(model):
        raise ConfigError("the weights of a model in compatibility mode are not its Hugging Face model's", _RAW)
    weight = weights.map_module(layer, name).weight
    every = wrapped.named_parameters(remove_duplicate=False)
    own = [clean_name(n).removesuffix(".weight") for n, p in every if p is weight]  # a bridge has more paths to it
    with torch.device("meta"):
        plain = dict(library.AutoModelForCausalLM.from_config(copy.deepcopy(wrapped.config)).named_modules())
    path = next((path for path in own if path in plain), None)
    if path is None:
        raise ConfigError(
            f"{type(wrapped).__name__} holds the map {name!r} joined with others",
            "choose maps that stand alone, such as o, up and down",
        )
    return path, not isinstance(plain[path], nn.Linear)


_RAW = "load it as a raw bridge: mechsteer.load_model(name)"
