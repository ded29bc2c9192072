"""Where rows stand: absolute positions, prompt lengths and states, from a prefill to every later token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ScopeError
from mechsteer.models import Forward
from mechsteer.runtime.context import Context
from mechsteer.runtime.summary import PartialSummary


@dataclass
class Run:
    """One set of rows from its prefill on."""

    ctx: Context  # of the forward that runs
    lengths: Tensor  # [batch] real tokens so far, this forward's included
    states: list[Any]  # one per intervention or observation
    summaries: list[PartialSummary | None]
    seen: dict[int, Tensor] = field(default_factory=dict)
    has_whole_prompt: bool = True  # every row's has come in by the end of this forward

    def seen_after(self, watched: frozenset[int]) -> dict[int, Tensor]:
        """`seen` with the tokens of this forward."""
        ctx, seen = self.ctx, dict(self.seen)
        for token_id in watched:
            assert ctx.tokens is not None
            here = ((ctx.tokens == token_id) & ctx.mask).any(1)
            seen[token_id] = seen[token_id] | here if token_id in seen else here
        return seen

    def select_rows(self, index: Tensor, modules: Sequence[Any]) -> Run:
        """The rows `index` alone, to be continued; `modules` are the adapters and observers whose states these are."""
        index = index.to(self.lengths.device)
        rows = torch.arange(len(self.lengths), device=index.device) if self.ctx.rows is None else self.ctx.rows
        ctx = replace(
            self.ctx,
            mask=self.ctx.mask[index],
            positions=self.ctx.positions[index],
            prompt_lengths=self.ctx.prompt_lengths[index],
            tokens=None if self.ctx.tokens is None else self.ctx.tokens[index],
            rows=rows[index],
            seen={},
        )
        states = [
            None if state is None else module.select_rows(state, index)
            for module, state in zip(modules, self.states, strict=True)
        ]
        summaries = [None if part is None else part.select_rows(index) for part in self.summaries]
        seen = {token_id: here[index] for token_id, here in self.seen.items()}
        return replace(self, ctx=ctx, lengths=self.lengths[index], states=states, summaries=summaries, seen=seen)


def begin_run(
    forward: Forward, n_items: int, prompt_lengths: Tensor | Sequence[int] | None, rows: Tensor | None
) -> Run:
    """The run of a forward that begins its rows."""
    batch, pos = forward.shape
    mask = forward.attention_mask
    ctx = Context.whole(
        batch,
        pos,
        attention_mask=None if mask is None else mask[:, -pos:],
        prompt_lengths=prompt_lengths,
        tokens=forward.tokens,
        rows=rows,
        device=forward.device,
    )
    lengths = torch.full((batch,), pos, device=forward.device) if ctx.all_real else ctx.mask.long().sum(1)
    return Run(ctx, lengths, [None] * n_items, [None] * n_items)


def continue_run(before: Run, forward: Forward) -> Run:
    """The run of a forward that appends to the rows of `before`."""
    batch, pos = forward.shape
    if batch != len(before.lengths):
        raise ScopeError(
            f"the cache was filled with {len(before.lengths)} rows, this forward has {batch}",
            "continue the same rows",
        )
    mask, last = forward.attention_mask, before.ctx
    if mask is not None:
        new_mask = mask[:, -pos:].bool()
        all_real = bool(new_mask.all())
    elif last.all_real and last.mask.shape[1] == pos:  # nobody writes into a mask: the last token's serves this one
        new_mask, all_real = last.mask, True
    else:
        new_mask, all_real = torch.ones(batch, pos, dtype=torch.bool, device=forward.device), True
    if pos == 1 and all_real:
        positions, lengths = before.lengths.unsqueeze(1), before.lengths + 1
    else:
        counts = new_mask.long().cumsum(1)
        positions = torch.where(new_mask, before.lengths[:, None] + counts - 1, -1)
        lengths = before.lengths + counts[:, -1]
    ctx = Context(
        mask=new_mask,
        positions=positions,
        prompt_lengths=last.prompt_lengths,
        is_prefill=False,
        continues_prompt=not before.has_whole_prompt,
        tokens=forward.tokens,
        rows=last.rows,
        all_real=all_real,
        seen=before.seen,
    )
    # not by `replace`, which is slow: this is done at every token
    return Run(ctx, lengths, [*before.states], [*before.summaries], before.seen, before.has_whole_prompt)


@dataclass
class Now:
    """The forward that one thread is running."""

    run: Run | None = None
    reads: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # (intervention, its n-th site) -> activation
    cache: object | None = None
    is_frozen: bool = False
    moved: dict[torch.device, Context] = field(default_factory=dict)  # the run's context on other devices

    def ctx_on(self, device: torch.device) -> Context:
        """The run's context where a block computes: of a model on several devices each block has its own."""
        assert self.run is not None  # the watch runs before every forward
        ctx = self.run.ctx
        if ctx.mask.device == device:
            return ctx
        if device not in self.moved:
            self.moved[device] = ctx.on(device)
        return self.moved[device]
