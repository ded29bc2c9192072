"""A copy of a model with PEFT's layers in it: `get_peft_model` first, then a bridge of what came out.

Weights lie in the base model's memory. PEFT may replace a weight of the copy (PiSSA does): what a map was is kept beside it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mechsteer.baselines.setup import Setup
from mechsteer.baselines.with_peft.library import require_peft
from mechsteer.errors import ConfigError
from mechsteer.models import backend_of
from mechsteer.models.modules import map_module
from mechsteer.models.plain import plain_copy, reloaded

_SAID_BY_PEFT = (
    "`is_gradient_checkpointing` is deprecated",  # PEFT asks transformers for a name that is on its way out
    "Failed to load the CUDA extension",  # BOFT goes on without it
    "Setting boft_n_butterfly_factor to 1",
    "fan_in_fan_out is set to False",  # and PEFT sets it right
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """One map that PEFT adapts: its module, and a module that is as it was."""

    layer: nn.Module
    was: nn.Module


@dataclass(frozen=True, kw_only=True, eq=False)
class Wrapped:
    """The model with its layers. `peft_model`: PEFT's own, to be saved or run by itself."""

    model: Any
    peft_model: Any
    targets: tuple[Target, ...]
    parameters: tuple[nn.Parameter, ...]


def target_names(setup: Setup) -> list[str]:
    """Module paths of the maps. Raises ConfigError for a map that the architecture holds joined with others."""
    return [map_module(setup.model, layer, name)[0] for layer in setup.layers for name in setup.maps]


def sizes(setup: Setup) -> list[tuple[int, int]]:
    """(d_in, d_out) of each map."""
    weights = backend_of(setup.model).weights
    shapes = [weights.map_weight(layer, name).shape for layer in setup.layers for name in setup.maps]
    return [(shape[1], shape[0]) for shape in shapes]


def wrapped(setup: Setup, config: Any, seed: int) -> Wrapped:
    """`config` is PEFT's, with its targets. Raises ConfigError for what PEFT refuses, and where its layers are not run."""
    plain = plain_copy(setup.model)
    names = target_names(setup)
    was = {name: _kept(plain.get_submodule(name)) for name in names}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)
        for message in _SAID_BY_PEFT:
            warnings.filterwarnings("ignore", message)
        try:
            peft_model = require_peft().get_peft_model(plain, config)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(f"PEFT refuses these maps: {str(error).strip()[:300]}", "choose other maps") from error
    parameters = tuple(p for p in peft_model.parameters() if p.requires_grad)
    inner = peft_model.base_model.model
    targets = tuple(Target(layer=inner.get_submodule(name), was=was[name]) for name in names)
    model = reloaded(inner, setup.model)  # freezes everything, what booting adds too
    _check_run(model, targets)
    return Wrapped(model=model, peft_model=peft_model, targets=targets, parameters=parameters)


def _kept(module: nn.Module) -> nn.Module:
    """The module with parameters of its own in the same memory."""
    made: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, made)


@torch.no_grad()
def _check_run(model: Any, targets: tuple[Target, ...]) -> None:
    """Raises ConfigError unless a forward of the bridge passes every layer of PEFT's."""
    seen: set[int] = set()
    with _watched(targets, seen):
        backend = backend_of(model)
        backend.runner.forward(torch.zeros(1, 2, dtype=torch.long, device=backend.device), None, None, use_cache=False)
    if len(seen) < len(targets):
        raise ConfigError(
            f"the model runs {len(seen)} of the {len(targets)} maps that PEFT adapts",
            "this architecture's bridge reads their weights itself: choose other maps",
        )


@contextmanager
def _watched(targets: tuple[Target, ...], seen: set[int]) -> Iterator[None]:
    def note(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        seen.add(id(module))

    handles = [target.layer.register_forward_hook(note) for target in targets]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
