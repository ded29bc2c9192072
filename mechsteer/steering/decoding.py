"""The decode loop over one batch: left-padded, cached; rows that have stopped leave it.

A step costs a fixed part and a part per row, so a batch that shrinks with the rows that stop ends sooner. Keys
and values, masks, uniform numbers and the sessions' states shrink together; what a row says does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mechsteer.errors import NonFiniteError
from mechsteer.models import Engine
from mechsteer.runtime.batches import pad_rows
from mechsteer.runtime.session import Session
from mechsteer.steering.shared_prompts import shared_prefix


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to decode."""

    max_new_tokens: int
    temperature: float
    stop_tokens: frozenset[int]
    pad: int
    use_cache: bool
    halted: Callable[[], bool]  # asked before each forward; True ends the run
    top_k: int | None = None  # where temperature is above 0
    top_p: float | None = None
    shares_prompts: bool = True  # may go on from prompts that another generation read


@dataclass(frozen=True, kw_only=True)
class Picked:
    """The tokens that one forward gave the rows still running, a stop token included."""

    rows: list[int]  # numbered as the batch began
    slots: list[int]  # their places in the forward
    tokens: list[int]


def decode(
    engine: Engine, sessions: Sequence[Session], rows: Sequence[list[int]], uniform: Tensor | None, how: Decoding
) -> Iterator[Picked]:
    """Decode token lists `rows` together until all have stopped, one item per forward.

    `sessions` are those whose hooks run. `uniform` [n_rows max_new_tokens]: the random numbers of each row where temperature is above 0.
    Raises NonFiniteError for logits that are NaN or infinite.
    """
    current, real = (t.to(engine.device) for t in pad_rows(rows, how.pad, align="right"))
    mask, width = None, current.shape[1]
    if not bool(real.all()):
        mask = torch.nn.functional.pad(real.long(), (0, how.max_new_tokens), value=1)
    cache, use_cache = None, how.use_cache and engine.runner.keeps_cache
    if use_cache and how.shares_prompts:
        cache = shared_prefix(engine, sessions, current, None if mask is None else mask[:, :width])
        current = current if cache is None else current[:, -1:]
    batch = list(range(len(rows)))
    running = [True] * len(rows)
    for step in range(how.max_new_tokens):
        if how.halted():
            return
        seen = None if mask is None else mask[:, : width + step]
        logits, cache = engine.runner.forward(current, seen, cache, use_cache=use_cache, last_only=True)
        chosen = _pick(logits[:, -1], how, None if uniform is None else uniform[:, step])
        tokens = chosen.tolist()
        slots = [slot for slot, row in enumerate(batch) if running[row]]
        yield Picked(rows=[batch[s] for s in slots], slots=slots, tokens=[tokens[s] for s in slots])
        for slot in slots:
            running[batch[slot]] = tokens[slot] not in how.stop_tokens
        going = [slot for slot in slots if running[batch[slot]]]
        if not going:
            return
        if use_cache and step + 1 < how.max_new_tokens and leaving_pays(len(batch), len(going)):
            index = torch.tensor(going, device=current.device)
            engine.runner.select_rows(cache, index)
            for session in sessions:
                session.select_rows(index, cache)
            batch, chosen = [batch[s] for s in going], chosen[index]
            mask = None if mask is None else mask[index]
            uniform = None if uniform is None else uniform[index]
        column = chosen[:, None]
        current = column if use_cache else torch.cat([current, column], dim=1)


def leaving_pays(n_rows: int, n_going: int) -> bool:
    """A smaller batch is worth one copy of its keys and values: an eighth of its rows has stopped."""
    return n_rows - n_going >= max(1, n_rows // 8)


def _pick(logits: Tensor, how: Decoding, uniform: Tensor | None) -> Tensor:
    """Token ids [batch] of logits [batch d_vocab]."""
    best, token = logits.max(-1)
    if not bool(torch.isfinite(best).all()):
        raise NonFiniteError(
            "the logits are NaN or infinite", "the coefficient is too large for this dtype, or the weights are broken"
        )
    if uniform is None:
        return token
    # inverse of the cumulative distribution, in float64 so that its last entry is 1
    cumulative = distribution(logits, how.temperature, top_k=how.top_k, top_p=how.top_p).cumsum(-1)
    total = cumulative[:, -1:]
    below = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, below, right=True)[:, 0]


def distribution(logits: Tensor, temperature: float, *, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """What a token is drawn from: softmax(logits / temperature) [batch d_vocab] float64, what is cut off at 0.

    `top_k` keeps the k likeliest (and what is as likely as the last of them), `top_p` after that the smallest set of
    likeliest tokens that hold at least this share (Holtzman et al. 2020, arXiv 1904.09751). Not normalised again.
    """
    scores = logits.double() / temperature
    if top_k is not None:
        least = scores.topk(min(top_k, scores.shape[-1])).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    p = scores.softmax(-1)
    if top_p is not None:
        ascending, order = p.sort(dim=-1, stable=True)
        rest = ascending.cumsum(-1) <= 1 - top_p
        rest[:, -1] = False  # the likeliest stays
        p = p.masked_fill(torch.zeros_like(rest).scatter(-1, order, rest), 0)
    return p
