"""Models on several devices: where each block lies, and a plain module whose inputs follow.

Hugging Face's `device_map` gives modules to devices, and accelerate moves what goes into each. A bridge keeps those
moves; its twin, which is built anew, gets moves of its own here. Between two modules an activation lies where the
first one put it, so whoever changes one moves to it, or moves it, and never assumes where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def block_devices(model: Any) -> tuple[torch.device, ...]:
    """The device of each block's weights."""
    return tuple(next(block.parameters()).device for block in model.blocks)


def moved(value: Any, device: torch.device) -> Any:
    """Tensors in a value, and in its tuples, lists and dicts, on `device`; a KV cache stays, for its layers lie apart."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (tuple, list):
        return type(value)(moved(each, device) for each in value)
    if type(value) is dict:
        return {name: moved(each, device) for name, each in value.items()}
    return value


def move_inputs(hf: nn.Module, device_map: Mapping[str, Any]) -> None:
    """Let everything that goes into the modules named in `device_map` be moved to their parameters' devices.

    The logits come back on the device of the tokens.
    """
    for name in device_map:
        module = hf.get_submodule(name)
        first = next(module.parameters(), None)
        if first is not None and name:
            module.register_forward_pre_hook(_to(first.device), with_kwargs=True)
    hf.register_forward_hook(_logits_back, with_kwargs=True)


def _to(device: torch.device) -> Any:
    def move(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return moved(args, device), moved(kwargs, device)

    return move


def _logits_back(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    output.logits = output.logits.to(kwargs["input_ids"].device)
    return output
