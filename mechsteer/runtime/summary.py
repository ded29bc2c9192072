"""A prompt's summary without parameters: one vector per row, pooled from its activations at one site.

mean: Σ h_i / n,  last: h_{n-1},  first: h_0,  over the row's n real prompt tokens (with or without its BOS). With
`source="embedding"` h_i is the embedding of token i, whatever the site.

It is gathered forward by forward, so a prompt may arrive in one piece or in several; a row's summary does not
depend on the rows beside it, on padding, or on the pieces.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, ScopeError
from mechsteer.models.sites import Site
from mechsteer.runtime.context import Context

Pooling = Literal["mean", "last", "first"]
Source = Literal["site", "embedding"]


@dataclass(frozen=True)
class PartialSummary:
    """What is known of the summaries of some rows while their prompts come in."""

    total: Tensor  # [batch d] sum of the tokens that count so far
    count: Tensor  # [batch] how many

    @functools.cached_property
    def value(self) -> Tensor:
        """[batch d] their mean; zero where no token counted."""
        return self.total / self.count.clamp(min=1)[:, None]

    def select_rows(self, index: Tensor) -> PartialSummary:
        """Of the rows in `index` alone."""
        index = index.to(self.total.device)
        return PartialSummary(self.total[index], self.count[index])


# (adapter, the site it reads): says whose a summary is, whichever session asks
Summaries = Mapping[tuple[Any, Site], PartialSummary]


@dataclass(frozen=True)
class PromptSummary:
    """How an adapter wants its prompt summarised: the mean over the prompt's tokens, its last or its first.

    `bos=False` leaves the row's BOS token out: its activation is often hundreds of times as long as any other. A
    prompt that is nothing but BOS is then summarised by zeros. `source`: the activations at the first site that the
    adapter reads, or the embeddings of the tokens, without positions.
    """

    pooling: Pooling = "mean"
    bos: bool = True
    source: Source = "site"

    def __post_init__(self) -> None:
        if self.pooling not in get_args(Pooling):
            raise ConfigError(f"no pooling {self.pooling!r}", f"poolings are {list(get_args(Pooling))}")
        if self.source not in get_args(Source):
            raise ConfigError(f"no source {self.source!r}", f"sources are {list(get_args(Source))}")

    def pooled_from(self, acts: Tensor, ctx: Context, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """What `gather` is given [batch pos d]: `acts`, as they are at the site, or `embed(tokens)`."""
        if self.source == "site":
            return acts
        if ctx.tokens is None:
            raise ScopeError(
                "a summary of the embeddings needs token ids", "run the model on tokens, not on embeddings"
            )
        return embed(ctx.tokens)

    def gather(self, before: PartialSummary | None, acts: Tensor, ctx: Context, bos_id: int | None) -> PartialSummary:
        """`before` with the tokens of one more forward, acts [batch pos d]; summed in float32 at least."""
        pooled = self._pooled(before, ctx, bos_id)
        wide = acts.to(torch.promote_types(acts.dtype, torch.float32))
        total, count = torch.where(pooled[..., None], wide, 0).sum(1), pooled.sum(1)
        if before is None:
            return PartialSummary(total, count)
        return PartialSummary(before.total.to(total.device) + total, before.count.to(count.device) + count)

    def _pooled(self, before: PartialSummary | None, ctx: Context, bos_id: int | None) -> Tensor:
        """[batch pos] tokens of this forward that count."""
        prompt = ctx.mask & (ctx.positions < ctx.prompt_lengths[:, None])
        if not self.bos and bos_id is not None:
            if ctx.tokens is None:
                raise ScopeError(
                    "a prompt summary without BOS needs token ids", "run the model on tokens, not on embeddings"
                )
            prompt = prompt & ~((ctx.positions == 0) & (ctx.tokens == bos_id))
        if self.pooling == "last":
            return prompt & (ctx.positions == ctx.prompt_lengths[:, None] - 1)
        if self.pooling == "first":
            first = prompt & (prompt.long().cumsum(1) == 1)
            return first if before is None else first & (before.count == 0)[:, None]
        return prompt
