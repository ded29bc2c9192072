"""A prefix that is run once and kept: what it adds to the prompt summaries of sessions that will not see it run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mechsteer.models import Engine, Forward, backend_of
from mechsteer.models.sites import Site
from mechsteer.runtime.context import Context
from mechsteer.runtime.observers import Observer
from mechsteer.runtime.scopes import TokenScope
from mechsteer.runtime.session import Session, open_sessions
from mechsteer.runtime.summary import PartialSummary, PromptSummary


class _Gatherer(Observer):
    """Its state is the partial summary."""

    def __init__(self, spec: PromptSummary, bos_id: int | None, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.spec, self.bos_id, self.embed = spec, bos_id, embed

    def observe(self, acts: Tensor, state: PartialSummary | None, ctx: Context) -> PartialSummary:
        return self.spec.gather(state, self.spec.pooled_from(acts, ctx, self.embed), ctx, self.bos_id)


@dataclass(frozen=True)
class _Gathering:
    """What an intervention reads for its summary, and nothing else of it: for a session an observation."""

    module: _Gatherer
    site: Site  # an index of this model

    reads_one, writes, coeff, scope = True, None, 1.0, TokenScope.all()

    @property
    def observer(self) -> _Gatherer:
        return self.module

    @property
    def reads(self) -> tuple[Site]:
        return (self.site,)

    def at(self, model: Any) -> _Gathering:  # noqa: ARG002
        return self


@contextlib.contextmanager
def collecting_summaries(
    backend: Engine, interventions: Sequence[Any]
) -> Iterator[dict[tuple[Any, Site], PartialSummary]]:
    """What the one forward inside adds to the prompt summaries of `interventions`, which are not applied to it.

    The dict is filled on exit, with the summaries of enclosing `steer` blocks too; `Session.begin(forward,
    summaries=...)` takes it where that forward (a kept prefix) is announced instead of run again. The
    interventions must touch nothing in it. Give the prompt lengths of the whole rows by `hints`.
    """
    model, collected = backend.model, {}
    own = [iv.at(model) for iv in interventions if getattr(iv.module, "summary", None) is not None]
    bos_id = getattr(model.tokenizer, "bos_token_id", None)
    embed = backend_of(model).weights.embed
    session = Session(backend, [_Gathering(_Gatherer(iv.module.summary, bos_id, embed), iv.reads[0]) for iv in own])
    session.open()
    try:
        yield collected
        for enclosing in open_sessions(model):
            collected |= enclosing.export_summaries()
        states = [] if session.run is None else session.run.states
        collected |= {(iv.module, iv.reads[0]): state for iv, state in zip(own, states, strict=False)}
    finally:
        session.close()


def announce(
    sessions: Sequence[Session],
    tokens: Tensor,
    mask: Tensor | None,
    cache: Any,
    *,
    summaries: Mapping[tuple[Any, Site], PartialSummary] | None = None,
) -> None:
    """Tell sessions that a prefix [batch pos] went by which they did not see run: `cache` holds it."""
    prefix = Forward(
        shape=(tokens.shape[0], tokens.shape[1]),
        device=tokens.device,
        tokens=tokens,
        attention_mask=mask,
        cache=cache,
        is_filled=False,
        keeps_cache=True,
    )
    for session in sessions:
        session.begin(prefix, summaries={} if summaries is None else summaries)
        session.end(cache)
