"""Run a frozen model from where a steering first touches it.

What lies before the first touch is the same in every step, so it is computed once per batch and kept:

- the residual under the first block that matters: the blocks below are not run again;
- where positions come before every scope, their keys and values in the blocks above, and what they add to prompt
  summaries: only the suffix runs. A stateful adapter must see every token with the parameters it has in the step,
  so where there is one no prefix is kept.

And only positions whose logits are asked for are unembedded. Gradients of a step restarted at a layer equal
the whole step's to the bit; a kept prefix and a smaller unembedding change the shapes of matrix products and
with them the last bits (about 1e-6).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mechsteer.models import backend_of
from mechsteer.runtime.batches import Batch
from mechsteer.runtime.prefix import announce, collecting_summaries
from mechsteer.runtime.session import hints, open_sessions
from mechsteer.runtime.summary import Summaries


@dataclass(frozen=True)
class Start:
    """Where forwards of one batch begin; valid as long as nothing before it changes."""

    n_skipped: int = 0  # blocks that are not run
    resid: Tensor | None = None  # [batch pos - n_prefix d_model] after the skipped blocks
    n_prefix: int = 0  # columns whose keys and values are kept
    cache: Any = None
    summaries: Summaries = field(default_factory=dict)  # what the prefix adds to prompt summaries

    def n_bytes(self, model: Any) -> int:
        """Memory held."""
        tensors = [t for part in self.summaries.values() for t in (part.total, part.count)]
        tensors += [] if self.resid is None else [self.resid]
        return sum(t.untyped_storage().nbytes() for t in tensors) + (
            0 if self.cache is None else backend_of(model).runner.cache_bytes(self.cache)
        )


def start_from(model: Any, batch: Batch, n_skipped: int, n_prefix: int = 0, interventions: Sequence[Any] = ()) -> Start:
    """Run what comes before the first touch, once, without gradients.

    With a prefix: `interventions` are those whose prompt summaries it is to be part of. They are not applied, and
    touch nothing in it.
    """
    backend = backend_of(model)
    n_prefix = n_prefix if backend.runner.keeps_cache else 0
    start = Start(n_skipped, n_prefix=n_prefix)
    nowhere = (batch.rows[:0], batch.rows[:0])
    with torch.no_grad(), hints(model, batch.prompt_lengths, batch.rows):
        if n_prefix:
            mask = None if batch.attention_mask is None else batch.attention_mask[:, :n_prefix]
            with (
                collecting_summaries(backend, interventions) as summaries,
                backend.runner.shortened(unembed_at=nowhere),
            ):
                _, cache = backend.runner.forward(batch.tokens[:, :n_prefix], mask, None, use_cache=True)
            start = replace(start, cache=cache, summaries=summaries)
        if n_skipped:
            last = backend.names.hook_name(n_skipped - 1, "resid_post")
            grabbed: list[Tensor] = []
            remove = backend.runner.attach(last, grabbed.append, first=True)  # before hooks that a restart runs again
            try:
                with backend.runner.shortened(stop_at=n_skipped, unembed_at=nowhere):
                    _forward(model, batch, start)
            finally:
                remove()
            start = replace(start, resid=grabbed[0])
    cache = None if start.cache is None else backend.runner.fork_cache(start.cache, n_skipped=n_skipped)
    return replace(start, cache=cache)


def logits_from(
    model: Any, batch: Batch, start: Start, at: Tensor, *, recompute: Sequence[int] = (), all_positions: bool = False
) -> Tensor:
    """Logits [n_positions d_vocab] at the positions where `at` [batch pos] is True, in row-major order.

    Runs under whatever `steer` blocks are open. `recompute`: blocks that keep no activations for the backward
    (not with a kept prefix, whose cache a second pass would extend twice). `all_positions` unembeds every
    position and selects afterwards: slower, equal to a plain forward to the bit.
    """
    assert not bool(at[:, : start.n_prefix].any())
    rows, columns = at.nonzero(as_tuple=True)
    unembed_at = None if all_positions else (rows, columns)
    logits = run_from(model, batch, start, unembed_at=unembed_at, recompute=recompute)
    return logits[rows, columns - start.n_prefix] if all_positions else logits[0]


def run_from(
    model: Any,
    batch: Batch,
    start: Start,
    *,
    unembed_at: tuple[Tensor, Tensor] | None = None,
    recompute: Sequence[int] = (),
) -> Tensor:
    """Logits [batch pos - n_prefix d_vocab] of one forward; with `unembed_at` (rows, columns) [1 n_positions d_vocab]."""
    assert not (recompute and start.n_prefix)
    if unembed_at is not None:
        unembed_at = (unembed_at[0], unembed_at[1] - start.n_prefix)
    runner = backend_of(model).runner
    with (
        hints(model, batch.prompt_lengths, batch.rows),
        runner.finite_gradients(batch.attention_mask),
        runner.shortened(n_skipped=start.n_skipped, resid=start.resid, unembed_at=unembed_at, recompute=recompute),
    ):
        return _forward(model, batch, start)


def _forward(model: Any, batch: Batch, start: Start) -> Tensor:
    backend, n_prefix, cache = backend_of(model), start.n_prefix, None
    if start.cache is not None:
        cache = backend.runner.fork_cache(start.cache)
        tokens, mask = batch.tokens[:, :n_prefix], batch.mask[:, :n_prefix]
        announce(open_sessions(model), tokens, mask, cache, summaries=start.summaries)
    return backend.runner.forward(batch.tokens[:, n_prefix:], batch.attention_mask, cache, use_cache=False)[0]


class Kept:
    """Values per key within a budget of bytes; what does not fit is computed again whenever it is asked for."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes, self.used_bytes = budget_bytes, 0
        self._values: dict[Hashable, Any] = {}
        self._lock = threading.RLock()  # who comes second waits for what the first computes

    def get(self, key: Hashable, compute: Callable[[], Any], n_bytes: Callable[[Any], int]) -> Any:
        """The kept value of `key`, or `compute()`, kept if there is room."""
        with self._lock:
            if key in self._values:
                return self._values[key]
            value = compute()
            size = n_bytes(value)
            if self.used_bytes + size <= self.budget_bytes:
                self._values[key] = value
                self.used_bytes += size
            return value
