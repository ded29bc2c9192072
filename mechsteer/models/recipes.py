"""A model for another process: told by what it was loaded from, or by a folder that it is written to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mechsteer.errors import ConfigError, ModelLoadError
from mechsteer.models.dispatch import backend_of
from mechsteer.models.fingerprint import require_fingerprint
from mechsteer.models.load import load_model
from mechsteer.models.record import Recipe, record_of
from mechsteer.models.saving import save_folder


def recipe_of(model: Any, folder: str | Path) -> dict[str, Any]:
    """How another process loads this model, as plain data; one that `load_model` did not load is saved into `folder`.

    Raises ModelLoadError for a model in memory that cannot be saved (a HookedTransformer, one processed).
    """
    recipe = record_of(model).recipe
    if recipe is None:
        try:
            path = save_folder(model, folder).resolve()
        except ConfigError as error:
            raise ModelLoadError(
                f"workers cannot load this model, which was made in memory: {error.message}",
                "load it with mechsteer.load_model from a folder, which workers can do too",
            ) from error
        backend = backend_of(model)
        dtype = str(backend.dtype).removeprefix("torch.")
        recipe = Recipe(name=str(path), backend="bridge", dtype=dtype, device=str(backend.device))
    return dataclasses.asdict(recipe)


def load_recipe(recipe: Mapping[str, Any], fingerprint: str) -> Any:
    """The model of a recipe. On a worker "cuda:1" is whichever card the worker was given.

    Raises ModelMismatchError where it is not the model with this fingerprint: its files have changed, or the model was
    changed after it was loaded; and as `load_model` does.
    """
    device = recipe["device"]
    own = None if device is None else torch.device(device).type
    model = load_model(recipe["name"], backend=recipe["backend"], dtype=recipe["dtype"], device=own)
    require_fingerprint(model, fingerprint, f"what a worker is to compute ({recipe['name']})")
    return model
