"""Interventions: an adapter at a site over a scope; several as one Steering; `steer` attaches them for a while.

An observation is an observer at a site over a scope: it stands wherever an intervention does, in a Steering and its
file too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mechsteer.adapters import Adapter
from mechsteer.errors import ConfigError
from mechsteer.models import Forward, backend_of
from mechsteer.models.maps import require_map
from mechsteer.models.sites import Site, SiteLike, Sites, as_site
from mechsteer.runtime.observers import Observer
from mechsteer.runtime.reach import flat
from mechsteer.runtime.scope_words import ScopeLike, as_scope
from mechsteer.runtime.scopes import TokenScope
from mechsteer.runtime.session import Session, open_sessions
from mechsteer.steering.arguments import as_tuple, coefficient, kind_of, names, one_or_more, over, set_fields


@dataclass(frozen=True, init=False, repr=False)
class Intervention:
    """`adapter` writes a delta at `site`, over `scope`, with `coeff`.

    It reads the activation at `read` (default: the site; several sites: the adapter is given a tuple), never later
    in the forward than it writes. Sites are given as `mechsteer.sites.as_site` takes them (3 is resid_post of layer
    3), scopes as TokenScope or as a word ("generated"). `dataclasses.replace` changes one of these. Raises
    UnknownSiteError (layers: when resolved against a model), ScopeError, ConfigError for a coeff that is no number.
    """

    adapter: Adapter
    site: Site
    read: Site | tuple[Site, ...] | None
    scope: TokenScope
    coeff: float

    def __init__(
        self,
        adapter: Adapter,
        site: SiteLike,
        *,
        read: Sites | None = None,
        scope: ScopeLike | None = None,
        coeff: float = 1.0,
    ) -> None:
        if not isinstance(adapter, Adapter):
            raise ConfigError(
                f"{kind_of(adapter)} is not an adapter", "wrap a vector: mechsteer.adapters.Static(vector)"
            )
        set_fields(self, adapter=adapter, site=as_site(site), read=None if read is None else one_or_more(read))
        set_fields(self, scope=as_scope(scope), coeff=coefficient(coeff))

    def __repr__(self) -> str:
        read = "" if self.read is None else f", reads {names(self.read)}"
        return f"Intervention({self.adapter!r} at {self.site}{read}, {over(self.scope)}, coeff {self.coeff:.4g})"

    @property
    def module(self) -> Adapter:
        """What is attached."""
        return self.adapter

    @property
    def reads(self) -> tuple[Site, ...]:
        """The sites it reads."""
        return as_tuple(self.site if self.read is None else self.read)

    @property
    def reads_one(self) -> bool:
        """The adapter is given one activation, not a tuple of them."""
        return self.read is None or isinstance(self.read, Site)

    @property
    def writes(self) -> Site:
        """The site it writes."""
        return self.site

    def at(self, model: Any) -> Intervention:
        """The same with layers as indices of this model, every site checked.

        Raises UnknownSiteError, and ModelMismatchError for an adapter that is of another model's map.
        """
        site = self.site.at(model)
        site.resolve(model, write=True)
        found = replace(self, site=site, read=None if self.read is None else _located(self.read, model))
        if self.adapter.weight_hash is not None:
            name = type(self.adapter).__name__
            require_map(model, found.reads, site, self.adapter.weight_hash, name)
        return found

    def with_coeff(self, coeff: float) -> Intervention:
        """The same adapter at another strength."""
        return replace(self, coeff=coeff)

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
        return _plain_hooks([self], model, attention_mask, prompt_lengths, tokens)


@dataclass(frozen=True, init=False, repr=False)
class Observation:
    """`observer` reads at `site` (or at several, in the order of the forward) and notes readings over `scope`.

    Accepted wherever an intervention is; strengths and training leave it alone, and what needs a delta (attribution,
    calibration, controls) passes it over. Raises ConfigError for what is no observer.
    """

    observer: Observer
    site: Site | tuple[Site, ...]
    scope: TokenScope

    def __init__(self, observer: Observer, site: Sites, scope: ScopeLike | None = None) -> None:
        if not isinstance(observer, Observer):
            raise ConfigError(f"{kind_of(observer)} is not an observer", "derive it from mechsteer.Observer")
        set_fields(self, observer=observer, site=one_or_more(site), scope=as_scope(scope))

    def __repr__(self) -> str:
        return f"Observation({self.observer!r} at {names(self.site)}, {over(self.scope)})"

    @property
    def module(self) -> Observer:
        """What is attached."""
        return self.observer

    @property
    def reads(self) -> tuple[Site, ...]:
        """The sites it reads."""
        return as_tuple(self.site)

    @property
    def reads_one(self) -> bool:
        """It is given one activation, not a tuple of them."""
        return isinstance(self.site, Site)

    @property
    def writes(self) -> None:
        """Nothing."""
        return

    @property
    def coeff(self) -> float:
        """An observation has no strength: always 1."""
        return 1.0

    def at(self, model: Any) -> Observation:
        """The same with layers as indices of this model, every site checked."""
        return replace(self, site=_located(self.site, model))

    def with_coeff(self, coeff: float) -> Observation:  # noqa: ARG002
        """The same observation: it has no strength."""
        return self

    def fwd_hooks(
        self,
        model: Any,
        attention_mask: Tensor | None = None,
        prompt_lengths: Sequence[int] | Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> list[tuple[str, Callable]]:
        """[(hook name, fn)] for an uncached `model.run_with_hooks(tokens, fwd_hooks=...)`: see `Intervention.fwd_hooks`."""
        return _plain_hooks([self], model, attention_mask, prompt_lengths, tokens)


@dataclass(frozen=True, init=False, repr=False)
class Steering:
    """An ordered set of interventions, trained and saved as one, with one coefficient over all of theirs.

    Observations among them keep their place in the order: they are saved and loaded with the interventions, the
    coefficient is not theirs (at 0 they still observe), and no training changes them. `writing(steering)` leaves
    them out. Accepted wherever an intervention is. Raises ConfigError for anything else.
    """

    interventions: tuple[Intervention | Observation, ...]
    coeff: float = 1.0

    def __init__(
        self,
        interventions: Intervention | Observation | Iterable[Intervention | Observation],
        coeff: float = 1.0,
    ) -> None:
        one = isinstance(interventions, (Intervention, Observation)) or not isinstance(interventions, Iterable)
        given: Any = interventions
        ivs = (given,) if one else tuple(given)
        for iv in ivs:
            if not isinstance(iv, (Intervention, Observation)):
                raise ConfigError(
                    f"a Steering is made of interventions and observations, not of {kind_of(iv)}",
                    "take a Steering apart with mechsteer.steering.flatten, wrap a vector: "
                    "mechsteer.Intervention(mechsteer.adapters.Static(vector), site)",
                )
        set_fields(self, interventions=ivs, coeff=coefficient(coeff))

    def __repr__(self) -> str:
        return f"Steering([{', '.join(map(repr, self.interventions))}], coeff {self.coeff:.4g})"

    def flat(self) -> list[Intervention | Observation]:
        """The interventions with the common coefficient multiplied in, and the observations as they are."""
        return [iv.with_coeff(iv.coeff * self.coeff) for iv in self.interventions]

    def with_coeff(self, coeff: float) -> Steering:
        """The same interventions at another common strength."""
        return replace(self, coeff=coeff)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Every adapter parameter, each once; those of observers are not trained."""
        seen: dict[int, torch.nn.Parameter] = {}
        for iv in writing(self):
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
        return _plain_hooks(self.flat(), model, attention_mask, prompt_lengths, tokens)


def _located(site: Site | Sequence[Site], model: Any) -> Site | tuple[Site, ...]:
    """The same with layers as indices of this model, checked that they can be read."""
    sites = tuple(each.at(model) for each in as_tuple(site))
    for each in sites:
        each.resolve(model)
    return sites[0] if isinstance(site, Site) else sites


def _plain_hooks(
    interventions: Sequence[Intervention | Observation],
    model: Any,
    mask: Tensor | None,
    prompt_lengths: Sequence[int] | Tensor | None,
    tokens: Tensor | None,
) -> list[tuple[str, Callable]]:
    hooks = []
    for iv in interventions:
        session = Session(backend_of(model), [iv], prompt_lengths=prompt_lengths)
        fired: set[int] = set()
        for number, (name, fn) in enumerate(session.hooks):
            hooks.append((name, _plain_hook(session, fn, mask, tokens, number, fired)))
    return hooks


def _plain_hook(
    session: Session, fn: Callable, mask: Tensor | None, tokens: Tensor | None, number: int, fired: set[int]
) -> Callable:
    def plain_hook(acts: Tensor, hook: Any = None) -> Tensor | None:  # noqa: ARG001 (TransformerLens passes it by name)
        # an uncached forward passes an intervention's hooks once each: where none has fired yet, or this one
        # fires again, a forward begins
        if not fired or number in fired:
            fired.clear()
            shape = (acts.shape[0], acts.shape[1])
            session.begin(Forward(shape, acts.device, tokens, mask, cache=None, is_filled=False, keeps_cache=False))
        fired.add(number)
        if len(fired) == len(session.hooks):
            fired.clear()
        return fn(acts)

    return plain_hook


Interventions = Intervention | Observation | Steering | Sequence[Intervention | Observation | Steering]


def flatten(interventions: Interventions) -> list[Intervention | Observation]:
    """One flat list in the order of application, coefficients of Steerings multiplied in."""
    return flat(interventions)


def writing(interventions: Interventions) -> list[Intervention]:
    """`flatten` without observations: what changes something."""
    return [iv for iv in flatten(interventions) if isinstance(iv, Intervention)]


@contextlib.contextmanager
def steer(
    model: Any,
    interventions: Interventions,
    prompt_lengths: Sequence[int] | Tensor | None = None,
    *,
    record: bool = False,
    warn: bool = True,
) -> Iterator[Session]:
    """Apply the interventions to every forward of `model` inside the block, in the thread that entered it.

    Works for forward, `run_with_cache`, backward and the model's own cached generation; masks and positions
    are taken from each forward (pass `attention_mask` for padded rows). In a plain forward a row is prompt
    from its first real token to its end unless `prompt_lengths` [batch] says otherwise. Interventions of an
    enclosing block apply first. On exit, by exception too, everything is removed and the model is bit-equal
    to what it was. A thread started inside is not steered, unless it runs in `contextvars.copy_context()`.

    `record` keeps, per intervention and forward, the deltas in `session.recorded` and what adapters and observers
    noted in `session.readings`; `session.contexts` are the forwards.

    Padding on the right that comes without a mask is found from the pad token (see `mechsteer.runtime.padding`).
    Raises UnknownSiteError before anything is attached; ScopeError for a scope that can touch nothing or
    cannot be known; HookNeverFiredError on exit if a hook did not run in any forward. On exit it warns, unless
    `warn` is False, of scopes that held no token of any forward.
    """
    session = Session(backend_of(model), flatten(interventions), prompt_lengths=prompt_lengths, record=record)
    session.open(as_block=True)
    try:
        yield session
        session.check_fired()
        if warn:
            session.warn_untouched()
    finally:
        session.close()


__all__ = [
    "Intervention",
    "Interventions",
    "Observation",
    "Steering",
    "flatten",
    "open_sessions",
    "steer",
    "writing",
]
