"""Teacher-forced rows in right-padded batches, and forwards of them that skip what no intervention touches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.models import backend_of, tokenize, tokenize_continuation
from mechsteer.runtime.scopes import Context
from mechsteer.runtime.session import hints
from mechsteer.shapes import Lengths, Mask, Tokens
from mechsteer.steering.interventions import Intervention, steer


@dataclass(frozen=True)
class Batch:
    """Rows in one forward."""

    rows: Lengths  # index of each row among all prompts
    tokens: Tokens
    mask: Mask  # real tokens
    prompt_lengths: Lengths

    @property
    def attention_mask(self) -> Tensor | None:
        """[batch pos] long, or None where nothing is padded."""
        return None if bool(self.mask.all()) else self.mask.long()

    def context(self) -> Context:
        """What a scope asks about the whole batch in one forward."""
        return Context.whole(
            *self.tokens.shape,
            attention_mask=self.attention_mask,
            prompt_lengths=self.prompt_lengths,
            tokens=self.tokens,
            rows=self.rows,
            device=self.tokens.device,
        )


def encode(
    model: Any, prompts: Sequence[str | Sequence[int]], continuations: Sequence[str | Sequence[int]] | None
) -> tuple[list[list[int]], list[int]]:
    """(token ids of each row, prompt lengths). Continuation strings get no BOS; an empty one is allowed.

    Raises DataError for what `tokenize` refuses, and where the two lists differ in length.
    """
    rows = tokenize(model, prompts)
    lengths = [len(row) for row in rows]
    if continuations is None:
        return rows, lengths
    if len(continuations) != len(rows):
        raise DataError(f"{len(continuations)} continuations for {len(rows)} prompts", "give one per prompt")
    full = [row + tokenize_continuation(model, text) for row, text in zip(rows, continuations, strict=True)]
    return tokenize(model, full), lengths  # checks ids and length


def make_batches(model: Any, rows: list[list[int]], prompt_lengths: list[int], batch_size: int) -> list[Batch]:
    """Right-padded batches of rows of similar length: causal attention keeps padding out of every real token."""
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}", "at least one row a batch")
    device = backend_of(model).device
    pad = getattr(model.tokenizer, "pad_token_id", None) or 0
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batches = []
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        width = len(rows[index[-1]])
        tokens = torch.tensor([rows[i] + [pad] * (width - len(rows[i])) for i in index])
        lengths = torch.tensor([len(rows[i]) for i in index])
        mask = torch.arange(width) < lengths[:, None]
        prompts = torch.tensor([prompt_lengths[i] for i in index])
        batches.append(Batch(*(t.to(device) for t in (torch.tensor(index), tokens, mask, prompts))))
    return batches


def last_positions(mask: Mask, n: int) -> tuple[Tensor, Tensor]:
    """Columns [batch n] of each row's last `n` real positions, right-aligned, and which of them exist."""
    lengths = mask.long().sum(1, keepdim=True)
    first = mask.long().argmax(1, keepdim=True)
    offset = lengths - n + torch.arange(n, device=mask.device)
    return first + offset.clamp(min=0), offset >= 0


def forward(
    model: Any,
    batch: Batch,
    interventions: Sequence[Intervention] = (),
    *,
    before: dict[str, list[Tensor]] | None = None,
    after: dict[str, list[Tensor]] | None = None,
    n_skipped: int = 0,
    resid: Tensor | None = None,
    unembed_at: tuple[Tensor, Tensor] | None = None,
    record: bool = False,
) -> tuple[Tensor, list[list[Tensor]]]:
    """(logits, recorded deltas per intervention whose coeff is not 0) of one forward under `interventions`.

    Values of the hooks named in `before` and `after` are appended there: as they are before the interventions of
    this call, and after them. The other arguments are `Backend.shortened`'s and `steer`'s.
    """
    backend = backend_of(model)
    with contextlib.ExitStack() as stack:
        for name, kept in (before or {}).items():
            stack.callback(backend.runner.attach(name, _keeper(kept)))
        session = stack.enter_context(steer(model, interventions, record=record))
        for name, kept in (after or {}).items():
            stack.callback(backend.runner.attach(name, _keeper(kept)))
        stack.enter_context(hints(model, batch.prompt_lengths, batch.rows))
        stack.enter_context(backend.runner.shortened(n_skipped=n_skipped, resid=resid, unembed_at=unembed_at))
        logits, _ = backend.runner.forward(batch.tokens, batch.attention_mask, None, use_cache=False)
        return logits, session.recorded or []


def _keeper(kept: list[Tensor]) -> Callable[[Tensor], None]:
    # a copy: later blocks may work in place
    return lambda acts: kept.append(acts.detach().clone())
