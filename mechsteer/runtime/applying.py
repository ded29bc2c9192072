"""One intervention or observation in one forward: shapes made [batch pos d], the delta masked and added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import einops
import torch
from torch import Tensor

from mechsteer.errors import ScopeError, ShapeError
from mechsteer.runtime.context import Context


def apply(
    iv: Any, sources: Sequence[Tensor], acts: Tensor, state: Any, ctx: Context, touched: bool | Tensor
) -> tuple[Tensor | None, Tensor, Any]:
    """(the changed activation or None where nothing is touched, the delta in the site's shape, the new state).

    `sources` are the activations at the sites that `iv` reads, `acts` is the one it changes.
    """
    flat = flatten_heads(acts, iv.site, ctx)
    is_asked = iv.adapter.summary is not None and not is_carried(iv.adapter, state)
    if is_asked and ctx.summary is None:  # the rest of some prompt is still to come
        if touched is True or (isinstance(touched, Tensor) and bool(touched.any())):
            raise ScopeError(
                f"{iv.scope!r} touches tokens before the whole prompt is known, and {type(iv.adapter).__name__} needs its summary",
                "run the prompt in one forward, or choose a scope after it",
            )
        if not iv.adapter.stateful:
            return None, torch.zeros_like(acts), state
    read = [
        flat if source is acts else flatten_heads(source, site, ctx)
        for source, site in zip(sources, iv.reads, strict=True)
    ]
    delta, state = iv.adapter.delta(read[0] if iv.reads_one else tuple(read), state, iv.coeff, ctx)
    if delta.shape != flat.shape:
        raise ShapeError(
            f"{type(iv.adapter).__name__} returned a delta {tuple(delta.shape)} for an activation {tuple(flat.shape)} at {iv.site}",
            "an adapter returns one change per activation",
        )
    delta = delta.to(acts.dtype)
    if acts.ndim == 4:
        delta = einops.rearrange(delta, "batch pos (head d_head) -> batch pos head d_head", head=acts.shape[2])
    if touched is True:
        return acts + delta, delta, state
    at = torch.zeros_like(ctx.mask) if touched is False else touched
    at = at.reshape(*at.shape, *[1] * (acts.ndim - 2))
    delta = torch.where(at, delta, 0)
    # untouched positions stay the same to the bit
    return None if touched is False else torch.where(at, acts + delta, acts), delta, state


def is_carried(adapter: Any, state: Any) -> bool:
    """The adapter has run for this prompt: neither the prompt nor its summary is asked for again."""
    return state is not None and adapter.per_prompt and not adapter.stateful


def observe(observation: Any, sources: Sequence[Tensor], state: Any, ctx: Context) -> Any:
    """The observer's new state."""
    read = [flatten_heads(source, site, ctx) for source, site in zip(sources, observation.reads, strict=True)]
    return observation.observer.observe(read[0] if observation.reads_one else tuple(read), state, ctx)


def flatten_heads(acts: Tensor, site: Any, ctx: Context) -> Tensor:
    """[batch pos d] of an activation, heads side by side; raises ShapeError where a point keeps no tokens apart."""
    if acts.shape[:2] != ctx.mask.shape or acts.ndim not in (3, 4):
        raise ShapeError(
            f"the activation at {site} is {tuple(acts.shape)}, the forward has {tuple(ctx.mask.shape)} tokens",
            "this point does not keep batch and positions; choose another",
        )
    return einops.rearrange(acts, "batch pos head d_head -> batch pos (head d_head)") if acts.ndim == 4 else acts
