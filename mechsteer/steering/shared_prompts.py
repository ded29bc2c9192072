"""Prompts that several generations share: what the model reads of them is computed once.

The arms of an evaluation write on the same prompts, and most of them leave the prompts as they are. Inside
`sharing_prompts` the keys and values of a batch of prompts, less their last token, are kept, and every generation on
the same batch goes on from there. All of them do, the unsteered too, so that equal ones stay equal to the bit; beside
a generation that reads its prompts itself they differ in the last bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from mechsteer.models import Engine
from mechsteer.runtime.prefix import announce
from mechsteer.runtime.restart import Kept
from mechsteer.runtime.scopes import TokenScope
from mechsteer.runtime.session import Session
from mechsteer.steering.interventions import Interventions, flatten

_KEPT: ContextVar[Kept | None] = ContextVar("mechsteer_shared_prompts", default=None)
_WRITTEN = (TokenScope.generated(), TokenScope.generated(include_last_prompt=True))


@contextlib.contextmanager
def sharing_prompts(*, budget_bytes: int = 2 << 30) -> Iterator[None]:
    """Inside, generations on the same batch of prompts share what is read of them, within a budget of memory.

    Only those take part that `leave_prompts_alone`, with a KV cache and without `record`. The model's weights must
    stay as they are.
    """
    before = _KEPT.set(Kept(budget_bytes))
    try:
        yield
    finally:
        _KEPT.reset(before)


def leave_prompts_alone(interventions: Interventions) -> bool:
    """None of these reads or changes anything before the last token of a prompt."""
    return all(
        iv.scope in _WRITTEN and iv.writes is not None and not _reads_prompt(iv.module) for iv in flatten(interventions)
    )


def _reads_prompt(module: Any) -> bool:
    return module.stateful or module.per_prompt or module.summary is not None


def shared_prefix(engine: Engine, sessions: Sequence[Session], tokens: Tensor, mask: Tensor | None) -> Any:
    """A cache filled with all but the last column of left-padded prompts [batch pos]; None where none is shared."""
    kept = _KEPT.get()
    every = [iv for session in sessions for iv in session.interventions]
    if kept is None or tokens.shape[1] < 2 or not leave_prompts_alone(every):
        return None
    if any(session.recorded is not None for session in sessions):
        return None  # it keeps a context per forward, and would miss this one
    prefix, seen = tokens[:, :-1], None if mask is None else mask[:, : tokens.shape[1] - 1]

    def read() -> Any:
        # under the hooks of the first who asks, which touch nothing here
        return engine.runner.forward(prefix, seen, None, use_cache=True, last_only=True)[1]

    both = prefix if seen is None else torch.where(seen.bool(), prefix, -1)
    key = (id(engine.model), engine.kind, tuple(prefix.shape), both.cpu().numpy().tobytes())
    cache = engine.runner.fork_cache(kept.get(key, read, engine.runner.cache_bytes))
    announce(sessions, prefix, seen, cache)
    return cache
