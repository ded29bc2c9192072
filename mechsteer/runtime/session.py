"""What runs while a model is steered: one `Session` tells every hook where in its row it stands.

A hook sees [batch, prompt] once and then [batch, 1], and is not told which. The session watches each
forward's tokens, mask and cache, works out absolute row-relative positions, carries prompt lengths and
adapter states from the prefill to every later token (keyed by the cache, so that two generations may
interleave), and calls the adapters with that context.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import HookNeverFiredError, ScopeError, ShapeError, UnknownSiteError
from mechsteer.models import Engine, Forward
from mechsteer.runtime.scopes import Context


@dataclass
class Run:
    """One set of rows from its prefill on."""

    ctx: Context
    lengths: Tensor  # [batch] real tokens so far
    states: list[Any]  # one per intervention
    seen: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Hints:
    """What the library's own loops know and the model's forward does not say."""

    prompt_lengths: Tensor | None = None
    rows: Tensor | None = None


_HINTS: weakref.WeakKeyDictionary[Any, Hints] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def hints(model: Any, prompt_lengths: Tensor | None, rows: Tensor | None) -> Iterator[None]:
    """Give every session on `model` the prompt lengths and row indices of the forwards inside the block."""
    before = _HINTS.get(model)
    _HINTS[model] = Hints(prompt_lengths, rows)
    try:
        yield
    finally:
        if before is None:
            del _HINTS[model]
        else:
            _HINTS[model] = before


OPEN_SESSIONS: weakref.WeakKeyDictionary[Any, list[Session]] = weakref.WeakKeyDictionary()


def open_sessions(model: Any) -> list[Session]:
    """Sessions of the `steer` blocks around this call on `model`, outermost first."""
    return OPEN_SESSIONS.get(model, [])


class Session:
    """Attached interventions on one backend. Everything is resolved before anything is attached."""

    def __init__(
        self,
        backend: Engine,
        interventions: Sequence[Any],
        *,
        prompt_lengths: Tensor | Sequence[int] | None = None,
        record: bool = False,
        owner: Any = None,
    ) -> None:
        self.backend = backend
        self.owner = backend.model if owner is None else owner  # the model that sites and hints are about
        located = [iv.at(self.owner) for iv in interventions]  # also those with coeff 0: a wrong site is an error
        self.interventions = [iv for iv in located if iv.coeff != 0]
        self.prompt_lengths = prompt_lengths
        self.recorded: list[list[Tensor]] | None = [[] for _ in self.interventions] if record else None
        self.contexts: list[Context] = []
        self.fired = [0] * len(self.interventions)
        self.forwards = 0
        self.run: Run | None = None
        self._runs: dict[int, tuple[weakref.ref, Run]] = {}
        self._removes: list[Callable[[], None]] = []
        self._reads: dict[int, Tensor] = {}
        self._watched = frozenset[int]().union(*(iv.scope.watched_ids() for iv in self.interventions))
        self._needs_tokens = any(iv.scope.needs_tokens for iv in self.interventions)
        self.hooks = self._plan()

    def _plan(self) -> list[tuple[str, Callable[[Tensor], Tensor | None]]]:
        plan = []
        for i, iv in enumerate(self.interventions):
            if iv.read is not None and iv.read != iv.site:
                if iv.read.order > iv.site.order:
                    raise UnknownSiteError(
                        f"the intervention reads at {iv.read} after it writes at {iv.site}",
                        "read no later in the forward than you write",
                    )
                plan.append((self.backend.names.hook_name(iv.read.layer, iv.read.point), self._reader(i, iv.read)))
            plan.append((self.backend.names.hook_name(iv.site.layer, iv.site.point, write=True), self._writer(i)))
        return plan

    # -- attaching ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Attach. If attaching fails half-way, nothing stays."""
        if not self.interventions:
            return
        try:
            self._removes.append(self.backend.runner.watch(self.begin, self.end))
            for name, fn in self.hooks:
                self._removes.append(self.backend.runner.attach(name, fn))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove everything, last attached first."""
        while self._removes:
            self._removes.pop()()
        self.run, self._reads = None, {}
        self._runs.clear()

    def check_fired(self) -> None:
        """Raise HookNeverFiredError if forwards went by and an intervention's hook did not run."""
        silent = [str(iv.site) for iv, n in zip(self.interventions, self.fired, strict=True) if n == 0]
        if self.forwards and silent:
            raise HookNeverFiredError(
                f"the hooks at {silent} never fired in {self.forwards} forward(s): the run equals the base model",
                "another setting of the model bypasses these points; write at resid_post, attn_out or mlp_out instead",
            )

    # -- one forward -------------------------------------------------------------------------------------------

    def begin(self, forward: Forward) -> None:
        """Work out where in their rows the tokens of this forward stand."""
        hinted = _HINTS.get(self.owner, Hints())
        run = self._continue(forward) if forward.is_filled else self._prefill(forward, hinted)
        self.run, self._reads = run, {}
        if not forward.is_filled:
            self._refuse_unknowable(forward, known=hinted.prompt_lengths is not None or self.prompt_lengths is not None)
        if self.recorded is not None:
            self.contexts.append(run.ctx)
        self._frozen = forward.is_frozen
        self._cache = forward.cache

    def end(self, cache: object | None) -> None:
        """Remember the run under its cache, so that a later forward can continue it."""
        self.forwards += 1
        cache = cache if cache is not None else self._cache
        if self.run is None or cache is None or self._frozen:
            return
        run, ctx = self.run, self.run.ctx
        seen = dict(run.seen)
        for token_id in self._watched:
            assert ctx.tokens is not None
            here = ((ctx.tokens == token_id) & ctx.mask).any(1)
            seen[token_id] = seen[token_id] | here if token_id in seen else here
        self._runs = {key: pair for key, pair in self._runs.items() if pair[0]() is not None}
        self._runs[id(cache)] = (weakref.ref(cache), replace(run, seen=seen))

    def _prefill(self, forward: Forward, hinted: Hints) -> Run:
        batch, pos = forward.shape
        given = self.prompt_lengths if hinted.prompt_lengths is None else hinted.prompt_lengths
        mask = forward.attention_mask
        ctx = Context.whole(
            batch,
            pos,
            attention_mask=None if mask is None else mask[:, -pos:],
            prompt_lengths=given,
            tokens=forward.tokens,
            rows=hinted.rows,
            device=forward.device,
        )
        lengths = torch.full((batch,), pos, device=forward.device) if ctx.all_real else ctx.mask.long().sum(1)
        return Run(ctx, lengths, [None] * len(self.interventions))

    def _continue(self, forward: Forward) -> Run:
        assert forward.cache is not None
        ref, before = self._runs.get(id(forward.cache), (lambda: None, None))
        if before is None or ref() is not forward.cache:
            raise ScopeError(
                "this forward continues a cache that was not filled inside this steer block: positions and states are unknown",
                "run the prefill inside the block too",
            )
        batch, pos = forward.shape
        if batch != len(before.lengths):
            raise ScopeError(
                f"the cache was filled with {len(before.lengths)} rows, this forward has {batch}",
                "continue the same rows",
            )
        mask = forward.attention_mask
        if mask is None:
            new_mask, all_real = torch.ones(batch, pos, dtype=torch.bool, device=forward.device), True
        else:
            new_mask = mask[:, -pos:].bool()
            all_real = bool(new_mask.all())
        if pos == 1 and all_real:
            positions, lengths = before.lengths[:, None], before.lengths + 1
        else:
            counts = new_mask.long().cumsum(1)
            positions = torch.where(new_mask, before.lengths[:, None] + counts - 1, -1)
            lengths = before.lengths + counts[:, -1]
        ctx = Context(
            mask=new_mask,
            positions=positions,
            prompt_lengths=before.ctx.prompt_lengths,
            is_prefill=False,
            tokens=forward.tokens,
            rows=before.ctx.rows,
            all_real=all_real,
            seen=before.seen,
        )
        return Run(ctx, lengths, list(before.states), before.seen)

    def _refuse_unknowable(self, forward: Forward, *, known: bool) -> None:
        if known or forward.keeps_cache:
            return
        assert self.run is not None
        for iv in self.interventions:
            if not iv.scope.prompt_relative:
                continue
            if forward.in_generate:
                raise ScopeError(
                    f"{iv.scope!r} has no meaning in the model's own generation without a cache: where the prompt ends is unknown",
                    "let the model use its KV cache, or call mechsteer.generate(..., use_cache=False)",
                )
            touched = iv.scope.touched(self.run.ctx)
            if touched is False or (isinstance(touched, Tensor) and not bool(touched.any())):
                raise ScopeError(
                    f"{iv.scope!r} touches nothing in this forward: all of it counts as prompt",
                    "pass prompt_lengths=[...] (real tokens per row) to say where each prompt ends",
                )

    # -- hooks -------------------------------------------------------------------------------------------------

    def _reader(self, i: int, site: Any) -> Callable[[Tensor], None]:
        read_as = self.backend.names.read_as(site.layer, site.point)

        def read(acts: Tensor) -> None:
            self._reads[i] = acts if read_as is None else read_as(acts)

        return read

    def _writer(self, i: int) -> Callable[[Tensor], Tensor | None]:
        iv = self.interventions[i]
        assert self.backend.names.read_as(iv.site.layer, iv.site.point) is None  # other points are refused for writing
        reads_elsewhere = iv.read is not None and iv.read != iv.site
        must_run = iv.adapter.stateful or iv.adapter.per_prompt

        def write(acts: Tensor) -> Tensor | None:
            run = self.run
            assert run is not None  # the watch runs before every forward
            self.fired[i] += 1
            touched = iv.scope.touched(run.ctx)
            if touched is False and not must_run and self.recorded is None:
                return None
            if acts.shape[:2] != run.ctx.mask.shape:
                raise ShapeError(
                    f"the activation at {iv.site} is {tuple(acts.shape)}, the forward has {tuple(run.ctx.mask.shape)} tokens",
                    "this point does not keep batch and positions; choose another",
                )
            if reads_elsewhere and i not in self._reads:  # q, k and v, or gate and up, in an order of the model's own
                raise UnknownSiteError(
                    f"{iv.read} is reached after {iv.site} in this model", "read no later in the forward than you write"
                )
            source = self._reads.pop(i) if reads_elsewhere else acts
            delta, run.states[i] = iv.adapter.delta(source, run.states[i], iv.coeff, run.ctx)
            if delta.shape != acts.shape:
                raise ShapeError(
                    f"{type(iv.adapter).__name__} returned a delta {tuple(delta.shape)} for an activation {tuple(acts.shape)} at {iv.site}",
                    "an adapter returns one change per activation",
                )
            delta = delta.to(acts.dtype)
            if touched is not True:
                at = torch.zeros_like(run.ctx.mask) if touched is False else touched
                at = at.reshape(*at.shape, *[1] * (acts.ndim - 2))
                delta = torch.where(at, delta, 0)
                changed = torch.where(at, acts + delta, acts)  # untouched positions stay the same to the bit
            else:
                changed = acts + delta
            if self.recorded is not None:
                self.recorded[i].append(delta)
            return None if touched is False else changed

        return write
