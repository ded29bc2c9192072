"""The decode loop over one batch: left-padded, cached; rows that have stopped leave it.

A step costs a fixed part and a part per row, so a batch that shrinks with the rows that stop ends sooner. Keys
and values, masks, uniform numbers and the sessions' states shrink together; what a row says does not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mechsteer.errors import NonFiniteError, ShapeError
from mechsteer.models import Backend
from mechsteer.runtime.session import Session


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What a run decodes on."""

    backend: Backend
    sessions: Sequence[Session]  # all whose hooks run, outermost first
    own: Sequence[tuple[Session, int] | None]  # per intervention of the call, where it is; None where its coeff is 0

    def select_rows(self, cache: object, index: Tensor) -> None:
        """Only the rows `index` [n_rows] of a batch go on, in that order."""
        _select_cached(self.backend, cache, index)
        for session in self.sessions:
            _select_states(session, index)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to decode."""

    max_new_tokens: int
    temperature: float
    stop_tokens: frozenset[int]
    pad: int
    use_cache: bool
    halted: Callable[[], bool]  # asked before each forward; True ends the run


@dataclass(frozen=True, kw_only=True)
class Picked:
    """The tokens that one forward gave the rows still running, a stop token included."""

    rows: list[int]  # numbered as the batch began
    slots: list[int]  # their places in the forward
    tokens: list[int]


def decode(engine: Engine, rows: Sequence[list[int]], uniform: Tensor | None, how: Decoding) -> Iterator[Picked]:
    """Decode token lists `rows` together until all have stopped, one item per forward.

    `uniform` [n_rows max_new_tokens]: the random numbers of each row where temperature is above 0.
    Raises NonFiniteError for logits that are NaN or infinite.
    """
    width, device = max(len(r) for r in rows), engine.backend.device
    current = torch.tensor([[how.pad] * (width - len(r)) + r for r in rows], device=device)
    mask = None
    if any(len(r) < width for r in rows):
        mask = torch.ones(len(rows), width + how.max_new_tokens, dtype=torch.long, device=device)
        for i, row in enumerate(rows):
            mask[i, : width - len(row)] = 0
    cache = None
    batch = list(range(len(rows)))
    running = [True] * len(rows)
    for step in range(how.max_new_tokens):
        if how.halted():
            return
        seen = None if mask is None else mask[:, : width + step]
        logits, cache = engine.backend.forward(current, seen, cache, use_cache=how.use_cache, last_only=True)
        chosen = _pick(logits[:, -1], how.temperature, None if uniform is None else uniform[:, step])
        tokens = chosen.tolist()
        slots = [slot for slot, row in enumerate(batch) if running[row]]
        yield Picked(rows=[batch[s] for s in slots], slots=slots, tokens=[tokens[s] for s in slots])
        for slot in slots:
            running[batch[slot]] = tokens[slot] not in how.stop_tokens
        going = [slot for slot in slots if running[batch[slot]]]
        if not going:
            return
        if how.use_cache and step + 1 < how.max_new_tokens and leaving_pays(len(batch), len(going)):
            index = torch.tensor(going, device=device)
            engine.select_rows(cache, index)
            batch, chosen = [batch[s] for s in going], chosen[index]
            mask = None if mask is None else mask[index]
            uniform = None if uniform is None else uniform[index]
        column = chosen[:, None]
        current = column if how.use_cache else torch.cat([current, column], dim=1)


def leaving_pays(n_rows: int, n_going: int) -> bool:
    """A smaller batch is worth one copy of its keys and values: an eighth of its rows has stopped."""
    return n_rows - n_going >= max(1, n_rows // 8)


def _pick(logits: Tensor, temperature: float, uniform: Tensor | None) -> Tensor:
    """Token ids [batch] of logits [batch d_vocab]."""
    best, token = logits.max(-1)
    if not bool(torch.isfinite(best).all()):
        raise NonFiniteError(
            "the logits are NaN or infinite", "the coefficient is too large for this dtype, or the weights are broken"
        )
    if uniform is None:
        return token
    # inverse of the cumulative distribution, in float64 so that its last entry is 1
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    token = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    return token[:, 0].clamp(max=logits.shape[-1] - 1)


class Gathered:
    """What the interventions of a call note, forward by forward, laid out by row and position."""

    def __init__(self, n_interventions: int, n_rows: int, n_positions: int) -> None:
        self._size = (n_rows, n_positions)
        self._values: list[dict[str, Tensor]] = [{} for _ in range(n_interventions)]

    def add(self, places: Sequence[tuple[Session, int] | None], slots: Sequence[int]) -> tuple[dict[str, Tensor], ...]:
        """Take the last forward's readings from the sessions; the values at the last position of rows `slots`."""
        last: tuple[dict[str, Tensor], ...] = tuple({} for _ in places)
        for i, place in enumerate(places):
            if place is None:
                continue
            session, k = place
            ctx = session.contexts[-1]
            assert ctx.rows is not None  # hinted
            rows, positions = (t[ctx.mask].cpu() for t in (ctx.rows[:, None].expand_as(ctx.mask), ctx.positions))
            for name, noted in session.readings[k].items():
                if (values := noted[-1]) is None:
                    continue
                with torch.inference_mode(False):  # so that they can be used in training too
                    values = values.detach().clone().float().cpu()
                    self._of(i, name, values)[rows, positions] = values[ctx.mask.cpu()]
                    last[i][name] = values[slots, -1]
        for session in {id(place[0]): place[0] for place in places if place is not None}.values():
            session.forget()
        return last

    def _of(self, i: int, name: str, values: Tensor) -> Tensor:
        own = self._values[i]
        if name not in own:
            own[name] = torch.full((*self._size, *values.shape[2:]), math.nan)
        if own[name].shape[2:] != values.shape[2:]:
            raise ShapeError(
                f"the reading {name!r} has {tuple(values.shape[2:])} values per token after {tuple(own[name].shape[2:])}",
                "note the same number of values in every forward",
            )
        return own[name]

    def readings(self, lengths: Sequence[int]) -> list[dict[str, Tensor]]:
        """Per intervention: name -> [n_rows pos ...]; NaN from a row's length on."""
        beyond = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
        for of_one in self._values:
            for name, values in of_one.items():
                of_one[name] = values[:, : max(lengths)].clone()
                of_one[name][beyond] = math.nan
        return self._values


def _select_cached(backend, cache, index):
    for layer in getattr(cache, backend._cache_layers):
        for name in backend._cache_tensors:
            setattr(layer, name, getattr(layer, name)[index])
    if hasattr(cache, "previous_attention_mask"):
        cache.previous_attention_mask = cache.previous_attention_mask[index]


def _select_states(session, index):
    from dataclasses import replace

    def sel(x):
        if isinstance(x, torch.Tensor):
            return x[index]
        if isinstance(x, (tuple, list)):
            return type(x)(sel(y) for y in x)
        if isinstance(x, dict):
            return {k: sel(v) for k, v in x.items()}
        return x

    runs = {}
    for key, (ref, run) in session._runs.items():
        ctx = replace(run.ctx, prompt_lengths=run.ctx.prompt_lengths[index], rows=sel(run.ctx.rows))
        runs[key] = (
            ref,
            replace(run, ctx=ctx, lengths=run.lengths[index], states=[sel(s) for s in run.states], seen=sel(run.seen)),
        )
    session._runs = runs
