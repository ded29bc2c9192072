"""A toy bridge split over two devices that this machine need not have: fake tensors, which know their device and no values.

An operation on tensors of two devices raises as it does on GPUs; a number that is asked of a tensor raises too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import toys
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mechsteer.models import Twin, twin_of
from mechsteer.models.splitting import follow_devices, to_device

FIRST, SECOND = torch.device("cpu"), torch.device("meta")


@contextlib.contextmanager
def split_model(family: str = "llama", at: int = 1) -> Iterator[tuple[Any, Twin]]:
    """(a bridge whose blocks from `at` on, last norm and unembedding lie on a second device, its twin)."""
    model = toys.load(family)
    model.tokenizer = None  # whose padding would be looked for in the tokens
    twin, hf = twin_of(model), model.original_model
    assert twin is not None
    parts = {"model.embed_tokens": FIRST, "model.rotary_emb": FIRST}
    parts |= {f"model.layers.{i}": SECOND if i >= at else FIRST for i in range(toys.N_LAYERS)}
    parts |= {"model.norm": SECOND, "lm_head": SECOND}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for each in (hf, twin.hf):
            for name, device in parts.items():
                place(_part(each, name), device)
        place(hf, FIRST)  # what is left: the bridge's own
        for name, device in parts.items():
            _follow(_part(hf, name), device)
        _follow(hf, FIRST)
        model.cfg.device, model.cfg.n_devices = FIRST, 2
        hf.hf_device_map = {name: str(device) for name, device in parts.items()}
        follow_devices(twin.hf, parts)
        yield model, twin


def _part(hf: nn.Module, name: str) -> nn.Module:
    """A module of the plain model's by its name there, wherever the bridge has put it."""
    found = hf
    for step in name.split("."):
        found = getattr(found, step)
    return found


def place(module: nn.Module, device: torch.device) -> None:
    """Fake tensors on a device instead of a module's own; to be called within `split_model`."""
    for each in module.modules():
        for held in (each._parameters, each._buffers):
            for name, value in held.items():
                if value is None or isinstance(value, FakeTensor):
                    continue
                fake = torch.empty(value.shape, dtype=value.dtype, device=device)
                held[name] = (
                    nn.Parameter(fake, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else fake
                )


def _follow(module: nn.Module, device: torch.device) -> None:
    """As accelerate does: not by a hook, but by another forward; of the whole, what comes out is moved back."""
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = inner(*to_device(args, device), **to_device(kwargs, device))
        if hasattr(out, "logits"):
            out.logits = out.logits.to(device)
        return out

    module.__dict__["forward"] = forward
