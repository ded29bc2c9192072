"""What a coefficient is to PEFT's layers.

    added   y(c) = W x + c (y(1) − W x)          LoRA, DoRA, DeLoRA, PiSSA; IA3, where it is a factor (λ − 1)c + 1
    angle   θ → c θ, factors α → (α − 1)c + 1    RoAd

At c = 1 it is PEFT's own forward, to the bit. W is the map as it was before PEFT came.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from mechsteer.baselines.with_peft.wrapped import Target


@contextlib.contextmanager
def added(targets: Sequence[Target], coeff: float) -> Iterator[None]:
    """Inside, the change that every target makes is times `coeff`."""

    def hook(target: Target) -> Any:
        def scale(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
            plain = target.was(*args)
            return plain + coeff * (output - plain)

        return scale

    handles = [target.layer.register_forward_hook(hook(target)) for target in targets]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def turned(targets: Sequence[Target], coeff: float) -> Iterator[None]:
    """Inside, the angles of every target are times `coeff`."""
    swapped: list[tuple[Any, str, nn.Parameter]] = []
    try:
        for layer in (target.layer for target in targets):
            for owner, neutral in ((layer.road_theta, 0.0), (layer.road_alpha, 1.0)):
                held: Any = owner
                for name, parameter in list(held._parameters.items()):
                    swapped.append((held, name, parameter))
                    held._parameters[name] = neutral + coeff * (parameter - neutral)
        yield
    finally:
        for held, name, parameter in swapped:
            held._parameters[name] = parameter
