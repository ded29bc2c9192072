"""A plain module whose parts lie on several devices: what goes into a part is moved to where it lies.

transformers' `device_map` does this by hooks of accelerate's on the module that it loads. A twin is another module with the
same weights, so that it needs hooks of its own; they do what those do, and leave everything on one device as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def follow_devices(hf: nn.Module, parts: Iterable[str]) -> None:
    """Move what each of `parts` (names of modules, "" for all) is given to its first weight; logits go where tokens came from.

    A part without weights takes what it gets.
    """
    for name in parts:
        part = hf.get_submodule(name)
        weight = next(part.parameters(), None)
        if weight is not None:
            part.register_forward_pre_hook(_mover(weight.device), with_kwargs=True)
    hf.register_forward_hook(_return, with_kwargs=True)


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors in tuples, lists and dicts too; what is no such thing (a cache) stays as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (tuple, list):
        return type(value)(to_device(each, device) for each in value)
    if type(value) is dict:
        return {key: to_device(each, device) for key, each in value.items()}
    return value


def _mover(device: torch.device) -> Any:
    def move(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return to_device(args, device), to_device(kwargs, device)

    return move


def _return(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    tokens = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
    if isinstance(tokens, Tensor) and output.logits.device != tokens.device:
        output.logits = output.logits.to(tokens.device)
    return output
