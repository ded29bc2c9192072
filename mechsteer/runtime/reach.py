"""How far interventions reach: the positions they touch, the blocks and columns they leave alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.models.sites import Site
from mechsteer.runtime.batches import Batch
from mechsteer.runtime.context import Context
from mechsteer.runtime.session import open_sessions
from mechsteer.shapes import Mask


def flat(interventions: Any) -> list[Any]:
    """Interventions and Steerings, alone or in sequences, as one list in the order of application.

    Raises ConfigError for anything else.
    """
    if isinstance(interventions, Sequence) and not isinstance(interventions, (str, bytes)):
        return [iv for item in interventions for iv in flat(item)]
    if hasattr(interventions, "interventions"):
        return list(getattr(interventions, "flat")())  # noqa: B009  # a Steering, which lies above this room
    if not hasattr(interventions, "writes"):
        raise ConfigError(
            f"{type(interventions).__name__} is no intervention",
            "pass mechsteer.Intervention(adapter, site), a Steering, or a list of such; "
            "wrap a vector: mechsteer.adapters.Static(vector)",
        )
    return [interventions]


def touched(interventions: Sequence[Any], ctx: Context) -> Mask:
    """[batch pos] real positions of a forward that any of the scopes touches."""
    found = torch.zeros_like(ctx.mask)
    for iv in interventions:
        here = iv.scope.touched(ctx)
        found = found | (here if isinstance(here, Tensor) else ctx.mask & here)
    return found


def n_untouched_blocks(model: Any, interventions: Sequence[Any]) -> int:
    """How many blocks from the bottom none of these, nor of the enclosing `steer` blocks, reads or writes.

    A site at resid_post counts as after its block.
    """
    sites = sites_used(model, interventions)
    return min((int(s.layer) + (s.point == "resid_post") for s in sites), default=model.cfg.n_layers)


def sites_used(model: Any, interventions: Sequence[Any]) -> list[Site]:
    """Every site that these or the enclosing `steer` blocks' read or write, layers as indices of this model."""
    every = _with_enclosing(model, interventions)
    return [site.at(model) for iv in every for site in (iv.writes, *iv.reads) if site is not None]


def n_untouched_columns(model: Any, interventions: Sequence[Any], batch: Batch) -> int:
    """How many columns come before every touched one; 0 where an adapter or observer reads what comes before.

    A prompt summary is read before its scope too, but can be kept: see `mechsteer.runtime.prefix`.
    """
    if any(_reads_before_scope(iv) for iv in _with_enclosing(model, interventions)):
        return 0
    columns = touched(interventions, batch.context()).any(0)
    return int(columns.long().argmax()) if bool(columns.any()) else columns.shape[0]


def _with_enclosing(model: Any, interventions: Sequence[Any]) -> list[Any]:
    return [*interventions, *(iv for session in open_sessions(model) for iv in session.interventions)]


def _reads_before_scope(iv: Any) -> bool:
    if iv.writes is None or iv.adapter.stateful:
        return True
    return iv.adapter.per_prompt and iv.adapter.summary is None
