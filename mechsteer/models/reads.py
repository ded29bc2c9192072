"""What a part of a model reads: the residual stream in front of its norm, changed for that reader alone.

A hook on the stream changes it for all who read it later. Here the norm's own input is changed, so the skip path
keeps what it has. As with `Runner.attach`, only the context that asked is affected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mechsteer.models.protocol import Hook, Remove
from mechsteer.models.record import record_of
from mechsteer.models.runner import in_this_context

NORMS = ("ln1", "ln2")  # in front of the attention, in front of the MLP


def norm_of(model: Any, layer: int | None, name: str = "ln1") -> nn.Module | None:
    """The norm in front of a block's attention ("ln1") or MLP ("ln2"), or, for layer None, of the unembedding.

    None where the model has no such module. A HookedTransformer without norms has an identity there.
    """
    return getattr(model, "ln_final", None) if layer is None else getattr(model.blocks[layer], name, None)


def change_read(model: Any, norm: nn.Module, fn: Hook) -> Remove:
    """Run `fn(resid)` on what `norm` is given; a returned tensor is read instead.

    A HookedTransformer calls the norm of its attention three times a forward, for q, k and v.
    """
    is_here, end = in_this_context()

    def before(_: nn.Module, args: tuple) -> tuple | None:
        changed = fn(args[0]) if is_here() else None
        return None if changed is None else (changed, *args[1:])

    with record_of(model).lock:
        # first: what a bridge notes of the stream for its own forked reads is then what is read
        handle = norm.register_forward_pre_hook(before, prepend=True)

    def remove() -> None:
        end()
        with record_of(model).lock:
            handle.remove()

    return remove


def around_block(model: Any, layer: int, fn: Callable[[Callable[[], Any]], Any]) -> Remove:
    """Let `fn(run)` stand for a block's forward: `run()` is the block on what it was given, as often as needed.

    Not with a KV cache, which every run would extend.
    """
    block, (is_here, end) = model.blocks[layer], in_this_context()
    with record_of(model).lock:
        former, inner = block.__dict__.get("forward"), block.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            return fn(lambda: inner(*args, **kwargs)) if is_here() else inner(*args, **kwargs)

        block.__dict__["forward"] = forward

    def remove() -> None:
        end()
        with record_of(model).lock:
            if former is None:
                block.__dict__.pop("forward", None)
            else:
                block.__dict__["forward"] = former

    return remove


def n_heads_and_size(z: Tensor, n_heads: int) -> tuple[int, int]:
    """(heads, d_head) of a `z` that has its heads apart [batch pos head d_head] or flat [batch pos (head d_head)]."""
    return (z.shape[2], z.shape[3]) if z.ndim == 4 else (n_heads, z.shape[2] // n_heads)
