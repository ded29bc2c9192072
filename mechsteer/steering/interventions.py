"""Interventions: an adapter at a site over a scope; several as one Steering; `steer` attaches them for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mechsteer.adapters import Adapter
from mechsteer.errors import ConfigError
from mechsteer.models import Forward, backend_of
from mechsteer.models.sites import Site
from mechsteer.runtime.scopes import TokenScope
from mechsteer.runtime.session import OPEN_SESSIONS, Session, open_sessions


@dataclass(frozen=True, init=False)
class Intervention:
    """`adapter` writes a delta at `site`, over `scope`, with `coeff`.

    It reads the activation at `read` (default: the site), never later in the forward than it writes.
    Raises UnknownSiteError (when resolved against a model) and ConfigError for a coeff that is no number.
    """

    adapter: Adapter
    site: Site
    read: Site | None = None
    scope: TokenScope = field(default_factory=TokenScope.all)
    coeff: float = 1.0

    def __init__(
        self,
        adapter: Adapter,
        site: Site,
        *,
        read: Site | None = None,
        scope: TokenScope | None = None,
        coeff: float = 1.0,
    ) -> None:
        if not isinstance(adapter, Adapter):
            raise ConfigError(
                f"{type(adapter).__name__} is not an adapter",
                "wrap a vector: mechsteer.adapters.Static(vector)",
            )
        if not isinstance(site, Site):
            raise ConfigError(f"site is {site!r}", "pass mechsteer.Site(layer, point)")
        coeff = float(coeff)
        if not torch.isfinite(torch.tensor(coeff)):
            raise ConfigError(f"coeff is {coeff}", "pass a finite number")
        scope = TokenScope.all() if scope is None else scope
        for name, value in (
            ("adapter", adapter),
            ("site", site),
            ("read", read),
            ("scope", scope),
            ("coeff", coeff),
        ):
            object.__setattr__(self, name, value)

    def at(self, model: Any) -> Intervention:
        """The same with layers as indices of this model, every site checked."""
        site = self.site.at(model)
        site.resolve(model, write=True)
        read = None if self.read is None else self.read.at(model)
        if read is not None:
            read.resolve(model)
        return replace_intervention(self, site=site, read=read)

    def with_coeff(self, coeff: float) -> Intervention:
        """The same adapter at another strength."""
        return replace_intervention(self, coeff=coeff)

    def fwd_hooks(
        self,
        model: Any,
        attention_mask: Tensor | None = None,
        prompt_lengths: Sequence[int] | Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> list[tuple[str, Callable]]:
        """[(hook name, fn)] for an uncached `model.run_with_hooks(tokens, fwd_hooks=...)`.

        `attention_mask` [batch pos] for padded rows, `prompt_lengths` [batch] in real tokens (default: the whole
        row is prompt), `tokens` for scopes over token ids. Empty where coeff is 0.
        """
        return Steering([self]).fwd_hooks(model, attention_mask, prompt_lengths, tokens)


def replace_intervention(iv: Intervention, **changes: Any) -> Intervention:
    """`dataclasses.replace` for the positional constructor."""
    fields = {
        "read": iv.read,
        "scope": iv.scope,
        "coeff": iv.coeff,
        "adapter": iv.adapter,
        "site": iv.site,
    } | changes
    return Intervention(fields.pop("adapter"), fields.pop("site"), **fields)


@dataclass(frozen=True)
class Steering:
    """An ordered set of interventions, trained and saved as one, with one coefficient over all of theirs.

    Accepted wherever an intervention is.
    """

    interventions: tuple[Intervention, ...]
    coeff: float = 1.0

    def __init__(self, interventions: Iterable[Intervention], coeff: float = 1.0) -> None:
        object.__setattr__(self, "interventions", tuple(interventions))
        object.__setattr__(self, "coeff", float(coeff))

    def flat(self) -> list[Intervention]:
        """The interventions with the common coefficient multiplied in."""
        return [iv.with_coeff(iv.coeff * self.coeff) for iv in self.interventions]

    def with_coeff(self, coeff: float) -> Steering:
        """The same interventions at another common strength."""
        return Steering(self.interventions, coeff)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Every adapter parameter, each once."""
        seen: dict[int, torch.nn.Parameter] = {}
        for iv in self.interventions:
            seen |= {id(p): p for p in iv.adapter.parameters()}
        return list(seen.values())

    def fwd_hooks(
        self,
        model: Any,
        attention_mask: Tensor | None = None,
        prompt_lengths: Sequence[int] | Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> list[tuple[str, Callable]]:
        """[(hook name, fn)] of all interventions: see `Intervention.fwd_hooks`."""
        hooks = []
        for iv in self.flat():
            session = Session(backend_of(model), [iv], prompt_lengths=prompt_lengths)
            begins = True  # an uncached forward passes an intervention's hooks in order: the first begins it
            for name, fn in session.hooks:
                hooks.append((name, _plain_hook(session, fn, attention_mask, tokens, begins=begins)))
                begins = False
        return hooks


def _plain_hook(
    session: Session, fn: Callable, mask: Tensor | None, tokens: Tensor | None, *, begins: bool
) -> Callable:
    def plain_hook(acts: Tensor, hook: Any = None) -> Tensor | None:  # noqa: ARG001 (TransformerLens passes it by name)
        if begins:
            shape = (acts.shape[0], acts.shape[1])
            session.begin(Forward(shape, acts.device, tokens, mask, cache=None, is_filled=False, keeps_cache=False))
        return fn(acts)

    return plain_hook


Interventions = Intervention | Steering | Sequence[Intervention | Steering]


def flatten(interventions: Interventions) -> list[Intervention]:
    """One flat list in the order of application, coefficients of Steerings multiplied in."""
    if isinstance(interventions, Steering):
        return interventions.flat()
    if isinstance(interventions, Intervention):
        return [interventions]
    return [iv for item in interventions for iv in flatten(item)]


@contextlib.contextmanager
def steer(
    model: Any,
    interventions: Interventions,
    prompt_lengths: Sequence[int] | Tensor | None = None,
    *,
    record: bool = False,
) -> Iterator[Session]:
    """Apply the interventions to every forward of `model` inside the block.

    Works for forward, `run_with_cache`, backward and the model's own cached generation; masks and positions
    are taken from each forward (pass `attention_mask` for padded rows). In a plain forward a row is prompt
    from its first real token to its end unless `prompt_lengths` [batch] says otherwise. Interventions of an
    enclosing block apply first. On exit, by exception too, everything is removed and the model is bit-equal
    to what it was.

    Raises UnknownSiteError before anything is attached; ScopeError for a scope that can touch nothing or
    cannot be known; HookNeverFiredError on exit if a hook did not run in any forward.
    """
    session = Session(backend_of(model), flatten(interventions), prompt_lengths=prompt_lengths, record=record)
    stack = OPEN_SESSIONS.setdefault(model, [])
    session.open()
    stack.append(session)
    try:
        yield session
        session.check_fired()
    finally:
        stack.remove(session)
        if not stack:
            OPEN_SESSIONS.pop(model, None)
        session.close()


__all__ = [
    "Intervention",
    "Interventions",
    "Steering",
    "flatten",
    "open_sessions",
    "replace_intervention",
    "steer",
]
