"""What both model classes have in common, and the words for it: points, maps, one forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Hook = Callable[[Tensor], Tensor | None]
Remove = Callable[[], None]

MAPS = ("q", "k", "v", "o", "gate", "up", "down")
POINTS = (
    *("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "z", "q", "k", "v"),
    *(f"{m}_{end}" for m in MAPS for end in ("in", "out")),
)


@runtime_checkable
class HookedModel(Protocol):
    """What TransformerBridge and HookedTransformer have in common and mechsteer relies on."""

    cfg: Any
    tokenizer: Any

    @property
    def hook_dict(self) -> Mapping[str, Any]: ...
    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any: ...
    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class Forward:
    """One forward of the model, seen before its first block runs."""

    shape: tuple[int, int]  # batch, pos
    device: torch.device
    tokens: Tensor | None  # [batch pos]; None for embeddings
    attention_mask: Tensor | None  # [batch past + pos] or [batch pos]; None: all real
    cache: object | None  # the KV cache passed in
    is_filled: bool  # that cache holds earlier tokens: the forward continues rows
    keeps_cache: bool  # a cache is being filled, so later forwards may continue these rows
    is_frozen: bool = False  # the cache does not advance (HookedTransformer's frozen prefix)
    in_generate: bool = False  # the model's own generate is running


Begin = Callable[[Forward], None]
End = Callable[[object | None], None]
