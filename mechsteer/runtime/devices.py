"""Where an adapter lies must be where the model computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mechsteer.errors import ConfigError
from mechsteer.models import Engine


def require_devices(interventions: Sequence[Any], engine: Engine) -> None:
    """Raise ConfigError for an adapter or observer with a tensor on another device than the block it is at."""
    for iv in interventions:
        require_device([iv], engine.device_at((iv.writes or iv.reads[0]).layer))


def require_device(interventions: Sequence[Any], device: torch.device) -> None:
    """Raise ConfigError for an adapter or observer with a tensor on another device than this one."""
    for module in (iv.module for iv in interventions if isinstance(iv.module, nn.Module)):
        for tensor in (*module.parameters(), *module.buffers()):
            if not _is_same(tensor.device, device):
                raise ConfigError(
                    f"{type(module).__name__} is on {tensor.device}, the model on {device}",
                    f'move it: adapter.to("{device}")',
                )


def _is_same(a: torch.device, b: torch.device) -> bool:
    return a.type == b.type and (a.index == b.index or None in (a.index, b.index))  # "cuda" is whichever is current


def moved(touched: bool | Tensor, device: torch.device) -> bool | Tensor:
    """Scopes are asked where the tokens are: what they answer goes to the block."""
    return touched if isinstance(touched, bool) else touched.to(device)
