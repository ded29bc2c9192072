"""What runs while a model is steered: one `Session` tells every hook where in its row it stands.

A hook sees [batch, prompt] once and then [batch, 1], and is not told which. The session watches each
forward's tokens, mask and cache, works out absolute row-relative positions, carries prompt lengths, prompt
summaries and adapter states from the prefill to every later token (keyed by the cache, so that two generations
may interleave), and calls adapters and observers with that context.

Hooks act in the context (`contextvars`) that attached them, and hints and open sessions are kept there: of two
threads that steer one model at once, neither sees the other's interventions.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mechsteer.errors import HookNeverFiredError, MechsteerWarning, ScopeError, UnknownSiteError
from mechsteer.models import Engine, Forward, backend_of
from mechsteer.models.sites import Site
from mechsteer.runtime.applying import apply, flatten_heads, is_carried, observe
from mechsteer.runtime.context import Context
from mechsteer.runtime.devices import moved, require_devices
from mechsteer.runtime.padding import with_inferred_mask
from mechsteer.runtime.reachable import Bounds, require_reachable
from mechsteer.runtime.recording import Recording
from mechsteer.runtime.runs import Now, Run, begin_run, continue_run
from mechsteer.runtime.summary import PartialSummary, Summaries


@dataclass(frozen=True)
class Hints:
    """What the library's own loops know and the model's forward does not say."""

    prompt_lengths: Tensor | None = None
    rows: Tensor | None = None


_UNKNOWN = Hints()
_NO_HINTS: Mapping[int, Hints] = {}
_HINTS: ContextVar[Mapping[int, Hints]] = ContextVar("mechsteer_hints", default=_NO_HINTS)  # id of a model -> its hints
_OPEN: ContextVar[tuple[Session, ...]] = ContextVar("mechsteer_sessions", default=())  # outermost first


@contextlib.contextmanager
def hints(model: Any, prompt_lengths: Tensor | None, rows: Tensor | None) -> Iterator[None]:
    """Give every session on `model` the prompt lengths and row indices of the forwards inside the block."""
    before = _HINTS.get()
    _HINTS.set({**before, id(model): Hints(prompt_lengths, rows)})
    try:
        yield
    finally:
        _HINTS.set(before)


def open_sessions(model: Any) -> list[Session]:
    """Sessions of the `steer` blocks around this call on `model`, outermost first."""
    return [s for s in _OPEN.get() if s.is_open and s.is_block and s.owner is model]


class Session:
    """Attached interventions and observations on one backend. Everything is resolved before anything is attached.

    `record` keeps contexts, readings and, unless `keeps_deltas` is False, deltas.
    """

    def __init__(
        self,
        backend: Engine,
        interventions: Sequence[Any],
        *,
        prompt_lengths: Tensor | Sequence[int] | None = None,
        record: bool = False,
        keeps_deltas: bool = True,
        owner: Any = None,
    ) -> None:
        self.backend = backend
        self.owner = backend.model if owner is None else owner  # the model that sites and hints are about
        located = [iv.at(self.owner) for iv in interventions]  # also those with coeff 0: a wrong site is an error
        self.interventions = [iv for iv in located if iv.coeff != 0]
        self.prompt_lengths = prompt_lengths
        self._recording = Recording(len(self.interventions), keeps_deltas=keeps_deltas) if record else None
        self.fired = [0] * len(self.interventions)
        self.has_touched = [False] * len(self.interventions)
        self.forwards = 0
        require_devices(self.interventions, backend)
        require_reachable(self.interventions, Bounds(d_vocab=self.owner.cfg.d_vocab, n_positions=self.owner.cfg.n_ctx))
        self.is_open = self.is_block = False
        self._runs: dict[int, tuple[weakref.ref, Run]] = {}
        self._removes: list[Callable[[], None]] = []
        self._local = threading.local()
        self._watched = frozenset[int]().union(*(iv.scope.watched_ids() for iv in self.interventions))
        self._summaries = [getattr(iv.module, "summary", None) for iv in self.interventions]
        self._bos_id = getattr(self.owner.tokenizer, "bos_token_id", None) if any(self._summaries) else None
        self.hooks = self._plan()

    def _plan(self) -> list[tuple[str, Callable[[Tensor], Tensor | None]]]:
        plan = []
        for i, iv in enumerate(self.interventions):
            sites = list(enumerate(iv.reads))
            for k, site in sorted(sites, key=lambda numbered: numbered[1].order):
                if iv.writes == site:
                    continue
                if iv.writes is not None and site.order > iv.writes.order:
                    raise UnknownSiteError(
                        f"the intervention reads at {site} after it writes at {iv.writes}",
                        "read no later in the forward than you write",
                    )
                plan.append((self.backend.names.hook_name(site.layer, site.point), self._reader(i, k, site)))
            if iv.writes is not None:
                name = self.backend.names.hook_name(iv.writes.layer, iv.writes.point, write=True)
                plan.append((name, self._writer(i)))
        return plan

    # -- attaching ---------------------------------------------------------------------------------------------

    def open(self, *, as_block: bool = False) -> None:
        """Attach, for the current context. If attaching fails half-way, nothing stays.

        `as_block`: the session of a `steer` block, which `open_sessions` tells of.
        """
        try:
            if self.interventions:
                self._removes.append(self.backend.runner.watch(self.begin, self.end))
                for name, fn in self.hooks:
                    self._removes.append(self.backend.runner.attach(name, fn))
        except BaseException:
            self.close()
            raise
        self.is_open, self.is_block = True, as_block
        _OPEN.set((*(s for s in _OPEN.get() if s.is_open), self))

    def close(self) -> None:
        """Remove everything, last attached first."""
        self.is_open = False
        _OPEN.set(tuple(s for s in _OPEN.get() if s.is_open))
        while self._removes:
            self._removes.pop()()
        self._local = threading.local()
        self._runs.clear()

    def check_fired(self) -> None:
        """Raise HookNeverFiredError if forwards went by and an intervention's hook did not run."""
        missed = [iv for iv, n in zip(self.interventions, self.fired, strict=True) if n == 0]
        silent = [str(iv.writes) if iv.writes is not None else "+".join(map(str, iv.reads)) for iv in missed]
        if self.forwards and silent:
            raise HookNeverFiredError(
                f"the hooks at {silent} never fired in {self.forwards} forward(s): the run equals the base model",
                "another setting of the model bypasses these points; write at resid_post, attn_out or mlp_out instead",
            )

    def warn_untouched(self) -> None:
        """Warn of interventions whose hooks ran, and whose scopes held no token of any forward."""
        idle = [
            f"{iv.scope!r}"
            for iv, n, has in zip(self.interventions, self.fired, self.has_touched, strict=True)
            if n and not has and not iv.scope.prompt_relative  # a model may stop at once
        ]
        if idle:
            warnings.warn(
                f"the scope {' and '.join(idle)} held no token of {self.forwards} forward(s): nothing was changed there",
                MechsteerWarning,
                stacklevel=4,
            )

    # -- what was recorded -------------------------------------------------------------------------------------

    @property
    def contexts(self) -> list[Context]:
        """The forwards, in order; empty unless recording."""
        return [] if self._recording is None else self._recording.contexts

    @property
    def recorded(self) -> list[list[Tensor]] | None:
        """Per intervention its deltas, one per forward in the shape of its site; empty lists for observations."""
        return None if self._recording is None else self._recording.deltas

    @property
    def readings(self) -> list[dict[str, list[Tensor | None]]]:
        """Per intervention: name -> one value [batch pos ...] per entry of `contexts`, None where nothing was noted.

        NaN outside the scope. "delta_norm" [batch pos] of every intervention is among them. Empty unless recording.
        """
        return [{} for _ in self.interventions] if self._recording is None else self._recording.readings

    # -- one forward -------------------------------------------------------------------------------------------

    @property
    def _now(self) -> Now:
        now = getattr(self._local, "now", None)
        if now is None:
            now = self._local.now = Now()
        return now

    @property
    def run(self) -> Run | None:
        """The rows of this thread's latest forward."""
        return self._now.run

    def begin(self, forward: Forward, *, summaries: Summaries | None = None) -> None:
        """Work out where in their rows the tokens of this forward stand.

        `summaries`: for a forward that is announced but not run (a kept prefix), what it would have added to the
        prompt summaries; see `mechsteer.runtime.prefix`.
        """
        hinted = _HINTS.get().get(id(self.owner), _UNKNOWN)
        given = self.prompt_lengths if hinted.prompt_lengths is None else hinted.prompt_lengths
        if given is None and not forward.is_filled:
            forward = with_inferred_mask(forward, self.owner.tokenizer)
        if forward.is_filled:
            run = self._continued(forward)
        else:
            run = begin_run(forward, len(self.interventions), given, hinted.rows)
        if run.ctx.holds_prompt:  # without given lengths the first forward is all of the prompt
            is_all = given is None and not forward.is_filled
            run.has_whole_prompt = is_all or bool((run.lengths >= run.ctx.prompt_lengths).all())
        if summaries is not None:
            run.summaries = [summaries.get((iv.module, iv.reads[0])) for iv in self.interventions]
        self._local.now = Now(run, {}, forward.cache, forward.is_frozen)
        if not forward.is_filled:
            self._refuse_unknowable(forward, run.ctx, known=given is not None)
        if self._recording is not None:
            self._recording.contexts.append(run.ctx)

    def end(self, cache: object | None) -> None:
        """Remember the run under its cache, so that a later forward can continue it."""
        self.forwards += 1
        now = self._now
        cache = cache if cache is not None else now.cache
        if now.run is None or cache is None or now.is_frozen:
            return
        for key, (ref, _) in list(self._runs.items()):
            if ref() is None:
                self._runs.pop(key, None)
        run = replace(now.run, seen=now.run.seen_after(self._watched)) if self._watched else now.run
        self._runs[id(cache)] = (weakref.ref(cache), run)

    def select_rows(self, index: Tensor, cache: object) -> None:
        """The rows that filled `cache` go on as the rows `index` [n] (long) alone: the others have stopped.

        States, prompt summaries and what scopes watch are selected; the caller selects in the cache, in place.
        """
        if self.interventions:
            selected = self._run_of(cache).select_rows(index, [iv.module for iv in self.interventions])
            self._runs[id(cache)] = (weakref.ref(cache), selected)

    def export_summaries(self) -> dict[tuple[Any, Site], PartialSummary]:
        """The prompt summaries of the latest forward's rows, as far as their prompts have come in."""
        parts = [] if self.run is None else self.run.summaries
        return {
            (iv.module, iv.reads[0]): part
            for iv, part in zip(self.interventions, parts, strict=False)
            if part is not None
        }

    def _run_of(self, cache: object | None) -> Run:
        ref, run = self._runs.get(id(cache), (lambda: None, None))
        if run is None or ref() is not cache:
            raise ScopeError(
                "this forward continues a cache that was not filled inside this steer block: positions and states are unknown",
                "run the prefill inside the block too",
            )
        return run

    def _continued(self, forward: Forward) -> Run:
        assert forward.cache is not None
        return continue_run(self._run_of(forward.cache), forward)

    def _refuse_unknowable(self, forward: Forward, ctx: Context, *, known: bool) -> None:
        if known or forward.keeps_cache:
            return
        for iv in self.interventions:
            if not iv.scope.prompt_relative:
                continue
            if forward.in_generate:
                raise ScopeError(
                    f"{iv.scope!r} has no meaning in the model's own generation without a cache: where the prompt ends is unknown",
                    "let the model use its KV cache, or call mechsteer.generate(..., use_cache=False)",
                )
            touched = iv.scope.touched(ctx)
            if touched is False or (isinstance(touched, Tensor) and not bool(touched.any())):
                raise ScopeError(
                    f"{iv.scope!r} touches nothing in this forward: all of it counts as prompt",
                    "pass prompt_lengths=[...] (real tokens per row) to say where each prompt ends",
                )

    # -- hooks -------------------------------------------------------------------------------------------------

    def _reader(self, i: int, k: int, site: Any) -> Callable[[Tensor], None]:
        iv, read_as = self.interventions[i], self.backend.names.read_as(site.layer, site.point)

        def read(acts: Tensor) -> None:
            reads = self._now.reads
            reads[i, k] = acts if read_as is None else read_as(acts)
            if iv.writes is None and all((i, n) in reads for n in range(len(iv.reads))):
                self._observe(i, [reads.pop((i, n)) for n in range(len(iv.reads))])

        return read

    def _observe(self, i: int, sources: list[Tensor]) -> None:
        run, iv = self._now.run, self.interventions[i]
        assert run is not None  # the watch runs before every forward
        self.fired[i] += 1
        device = sources[-1].device
        sources = [source.to(device) for source in sources]
        ctx = self._context(i, run, self._now.ctx_on(device))
        run.states[i] = observe(iv, sources, run.states[i], ctx)
        if self._recording is not None or not self.has_touched[i]:
            touched = moved(self._touched(i, run.ctx), device)
            if self._recording is not None:
                self._recording.keep(i, ctx, touched, None)

    def _touched(self, i: int, ctx: Context) -> bool | Tensor:
        touched = self.interventions[i].scope.touched(ctx)
        if not self.has_touched[i]:  # asked only until it is known: it waits for the device
            self.has_touched[i] = touched if isinstance(touched, bool) else bool(touched.any())
        return touched

    def _writer(self, i: int) -> Callable[[Tensor], Tensor | None]:
        iv, spec = self.interventions[i], self._summaries[i]
        assert self.backend.names.read_as(iv.site.layer, iv.site.point) is None  # other points are refused for writing
        always = iv.adapter.stateful or iv.adapter.per_prompt or self._recording is not None
        reads_here = iv.reads == (iv.writes,)  # and nowhere else, as most do: asked once, not at every token

        place = self.backend.device_at(iv.site.layer) if self.backend.is_split else None

        def write(given: Tensor) -> Tensor | None:
            # what goes into a block lies where the block before left it
            acts = given if place is None else given.to(place)
            run = self._now.run
            assert run is not None  # the watch runs before every forward
            self.fired[i] += 1
            touched = self._touched(i, run.ctx)
            if touched is False and not always and (spec is None or not run.ctx.holds_prompt):
                return None
            here = self._now.ctx_on(acts.device)
            sources = [acts] if reads_here else self._sources(i, acts)
            if spec is not None and run.ctx.holds_prompt:
                assert run.ctx.is_prefill or run.summaries[i] is not None, "a prefix was announced without summaries"
                flat = flatten_heads(sources[0], iv.reads[0], here)
                flat = spec.pooled_from(flat, run.ctx, backend_of(self.owner).weights.embed).to(acts.device)
                run.summaries[i] = spec.gather(run.summaries[i], flat, here, self._bos_id)
            ctx, touched = self._context(i, run, here), moved(touched, acts.device)
            changed, delta, run.states[i] = apply(iv, sources, acts, run.states[i], ctx, touched)
            if self._recording is not None:
                self._recording.keep(i, ctx, touched, delta)
            return changed if changed is None or acts is given else changed.to(given.device)

        return write

    def _context(self, i: int, run: Run, here: Context) -> Context:
        """The context as intervention i is given it, of `here`: the run's, where its block computes."""
        spec = self._summaries[i]
        if self._recording is None and (spec is None or is_carried(self.interventions[i].module, run.states[i])):
            return here
        part = run.summaries[i] if run.has_whole_prompt else None
        readings = None if self._recording is None else {}
        return here.given(None if part is None else part.value.to(here.mask.device), readings)

    def _sources(self, i: int, acts: Tensor) -> list[Tensor]:
        """What intervention i reads, in the order in which it names its sites."""
        iv, reads, sources = self.interventions[i], self._now.reads, []
        for k, site in enumerate(iv.reads):
            if site != iv.writes and (i, k) not in reads:  # q, k and v, or gate and up, in an order of the model's own
                raise UnknownSiteError(
                    f"{site} is reached after {iv.writes} in this model, or its hook is silent",
                    "read no later in the forward than you write; settings such as use_attn_in silence hooks of inputs",
                )
            sources.append(acts if site == iv.writes else reads.pop((i, k)).to(acts.device))
        return sources
