"""Where an adapter lies must be where the model computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mechsteer.errors import ConfigError


def require_device(interventions: Sequence[Any], device: torch.device) -> None:
    """Raise ConfigError for an adapter or observer with a tensor on another device than the model's."""
    for module in (iv.module for iv in interventions if isinstance(iv.module, nn.Module)):
        for tensor in (*module.parameters(), *module.buffers()):
            if not _is_same(tensor.device, device):
                raise ConfigError(
                    f"{type(module).__name__} is on {tensor.device}, the model on {device}",
                    f'move it: adapter.to("{device}")',
                )


def _is_same(a: torch.device, b: torch.device) -> bool:
    return a.type == b.type and (a.index == b.index or None in (a.index, b.index))  # "cuda" is whichever is current
