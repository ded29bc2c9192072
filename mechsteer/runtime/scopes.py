"""TokenScope: which positions an intervention touches.

Positions are absolute and row-relative: the first real token of a row is position 0, padding has position -1
and is never touched. A scope asks only a `Context`, which is the same for a row alone or in a left-padded
batch, and for a pass over the whole text or one token at a time under a KV cache; so is the scope's answer.

One small class per scope: where it is, what it has to watch, how it is written in JSON and printed.

>>> TokenScope.generated(include_last_prompt=True) - TokenScope.token_ids([2])
TokenScope.generated(include_last_prompt=True) - TokenScope.token_ids([2])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mechsteer.errors import ScopeError
from mechsteer.runtime.context import Context


class TokenScope:
    """A set of positions. Build it from the class methods below and combine with `a & b`, `a | b`, `a - b`.

    `touched(ctx)` answers True (every real token of this forward), False (none) or a [batch pos] bool mask
    that is False at padding.
    """

    name: ClassVar[str] = ""
    prompt_relative: ClassVar[bool] = False  # its positions depend on where the prompt ends
    needs_tokens: ClassVar[bool] = False

    def touched(self, ctx: Context) -> bool | Tensor:
        """True, False, or a bool mask [batch pos]."""
        raise NotImplementedError

    def watched_ids(self) -> frozenset[int]:
        """Token ids whose earlier occurrence in the row the scope must know of."""
        return frozenset()

    def to_dict(self) -> dict:
        """JSON form; `TokenScope.from_dict` rebuilds it."""
        raise NotImplementedError

    def __and__(self, other: TokenScope) -> TokenScope:
        return Both(self, other)

    def __or__(self, other: TokenScope) -> TokenScope:
        return Either(self, other)

    def __sub__(self, other: TokenScope) -> TokenScope:
        return Without(self, other)

    @staticmethod
    def all() -> TokenScope:
        """Every real token."""
        return All()

    @staticmethod
    def prompt() -> TokenScope:
        """Positions before the prompt's length."""
        return Prompt()

    @staticmethod
    def generated(include_last_prompt: bool = False) -> TokenScope:
        """Positions from the prompt's length on.

        The last prompt position, which predicts the first new token, is not among them unless
        `include_last_prompt`.
        """
        return Generated(bool(include_last_prompt))

    @staticmethod
    def last_prompt() -> TokenScope:
        """The last prompt position alone."""
        return LastPrompt()

    @staticmethod
    def from_position(p: int) -> TokenScope:
        """Positions p and later."""
        return FromPosition(_position(p))

    @staticmethod
    def until(p: int) -> TokenScope:
        """Positions before p."""
        return Until(_position(p))

    @staticmethod
    def positions(positions: Iterable[int]) -> TokenScope:
        """Just these positions."""
        return Positions(tuple(_position(p) for p in positions))

    @staticmethod
    def window(a: int, b: int) -> TokenScope:
        """Positions a <= position < b."""
        return Window(_position(a), _position(b))

    @staticmethod
    def token_ids(ids: Iterable[int]) -> TokenScope:
        """Every token with one of these ids."""
        return TokenIds(tuple(sorted({int(i) for i in ids})))

    @staticmethod
    def after_token(token_id: int) -> TokenScope:
        """From the first occurrence of `token_id` in the row on, that token included; never in rows without it."""
        return AfterToken(int(token_id))

    @staticmethod
    def rows(rows: Iterable[int]) -> TokenScope:
        """Every token of these rows: a per-row condition. Rows are indices into the prompts of the call."""
        return Rows(tuple(sorted({int(r) for r in rows})))

    @staticmethod
    def from_dict(data: Mapping) -> TokenScope:
        """Rebuild a scope from `to_dict`; raises ScopeError for an unknown kind or arguments that do not fit it."""
        kind = data.get("scope")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ScopeError(f"unknown token scope {kind!r}", f"known scopes: {sorted(cls.name for cls in _LEAVES)}")
        return _KINDS[kind]._parse({k: v for k, v in data.items() if k != "scope"})

    @classmethod
    def _parse(cls, arguments: Mapping[str, Any]) -> TokenScope:
        raise NotImplementedError


def _position(p: int) -> int:
    if p < 0:
        raise ScopeError(f"position {p} is negative", "positions are absolute: 0 is the first real token of a row")
    return int(p)


class _Leaf(TokenScope):
    """A scope that is made of no other: a frozen dataclass whose fields are its arguments in JSON and in print."""

    __match_args__: ClassVar[tuple[str, ...]]  # the names of its fields
    _prints_names: ClassVar[bool] = False

    def _at(self, ctx: Context) -> bool | Tensor:
        """What `touched` answers, padding not yet taken out."""
        raise NotImplementedError

    def touched(self, ctx: Context) -> bool | Tensor:
        if self.needs_tokens and ctx.tokens is None:
            raise ScopeError(
                f"{self!r} needs token ids", "pass tokens=..., or run the model on tokens, not on embeddings"
            )
        at = self._at(ctx)
        if isinstance(at, Tensor):
            return at & ctx.mask
        return ctx.mask if at and not ctx.all_real else at

    def _arguments(self) -> dict[str, Any]:
        values = ((name, getattr(self, name)) for name in self.__match_args__)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values}

    def to_dict(self) -> dict:
        return {"scope": self.name, **{name.rstrip("_"): v for name, v in self._arguments().items()}}

    @classmethod
    def _parse(cls, arguments: Mapping[str, Any]) -> TokenScope:
        values = {name: arguments.get(name.rstrip("_")) for name in cls.__match_args__}
        if len(values) != len(arguments) or not all(_is_plain(v) for v in values.values()):
            raise ScopeError(
                f"the token scope {cls.name!r} has the arguments {dict(arguments)}",
                f"it takes {[name.rstrip('_') for name in values]}, made of whole numbers",
            )
        build = getattr(TokenScope, cls.name)  # the public constructor checks what it is given
        return build(*values.values())

    def __repr__(self) -> str:
        arguments = self._arguments().items()
        inside = ", ".join(f"{name}={v}" if self._prints_names else str(v) for name, v in arguments)
        return f"TokenScope.{self.name}({inside})"


def _is_plain(value: Any) -> bool:
    """A whole number, a flag, or a list of whole numbers."""
    return all(isinstance(v, int) for v in value) if isinstance(value, list) else isinstance(value, int)


@dataclass(frozen=True, repr=False)
class All(_Leaf):
    """Every real token."""

    name = "all"

    def _at(self, ctx: Context) -> bool:  # noqa: ARG002
        return True


@dataclass(frozen=True, repr=False)
class Prompt(_Leaf):
    """Positions before the prompt's length."""

    name, prompt_relative = "prompt", True

    def _at(self, ctx: Context) -> bool | Tensor:
        return ctx.holds_prompt and ctx.positions < ctx.prompt_lengths[:, None]


@dataclass(frozen=True, repr=False)
class Generated(_Leaf):
    """Positions from the prompt's length on; with `include_last_prompt` from the one before."""

    name, prompt_relative, _prints_names = "generated", True, True
    include_last_prompt: bool

    def _at(self, ctx: Context) -> bool | Tensor:
        # Under a cache what comes behind the prompt is generated text: no mask needed.
        return (
            ctx.positions >= ctx.prompt_lengths[:, None] - int(self.include_last_prompt) if ctx.holds_prompt else True
        )


@dataclass(frozen=True, repr=False)
class LastPrompt(_Leaf):
    """The last prompt position alone."""

    name, prompt_relative = "last_prompt", True

    def _at(self, ctx: Context) -> bool | Tensor:
        return ctx.holds_prompt and ctx.positions == ctx.prompt_lengths[:, None] - 1


@dataclass(frozen=True, repr=False)
class FromPosition(_Leaf):
    """Positions p and later."""

    name = "from_position"
    p: int

    def _at(self, ctx: Context) -> Tensor:
        return ctx.positions >= self.p


@dataclass(frozen=True, repr=False)
class Until(_Leaf):
    """Positions before p."""

    name = "until"
    p: int

    def _at(self, ctx: Context) -> Tensor:
        return ctx.positions < self.p


@dataclass(frozen=True, repr=False)
class Positions(_Leaf):
    """Just these positions."""

    name = "positions"
    positions_: tuple[int, ...]  # the bare name is the constructor's on TokenScope

    def _at(self, ctx: Context) -> Tensor:
        return _is_in(ctx.positions, self.positions_)


@dataclass(frozen=True, repr=False)
class Window(_Leaf):
    """Positions a <= position < b."""

    name = "window"
    a: int
    b: int

    def __post_init__(self) -> None:
        if self.b <= self.a:
            raise ScopeError(f"window({self.a}, {self.b}) is empty", "the window is half-open: a <= position < b")

    def _at(self, ctx: Context) -> Tensor:
        return (ctx.positions >= self.a) & (ctx.positions < self.b)


@dataclass(frozen=True, repr=False)
class TokenIds(_Leaf):
    """Every token with one of these ids."""

    name, needs_tokens = "token_ids", True
    ids: tuple[int, ...]

    def _at(self, ctx: Context) -> Tensor:
        assert ctx.tokens is not None
        return _is_in(ctx.tokens, self.ids)


@dataclass(frozen=True, repr=False)
class AfterToken(_Leaf):
    """From the first occurrence of a token in the row on."""

    name, needs_tokens = "after_token", True
    id: int

    def _at(self, ctx: Context) -> Tensor:
        assert ctx.tokens is not None
        here = ((ctx.tokens == self.id) & ctx.mask).long().cumsum(1) > 0
        return here | ctx.seen[self.id][:, None] if self.id in ctx.seen else here

    def watched_ids(self) -> frozenset[int]:
        return frozenset([self.id])


@dataclass(frozen=True, repr=False)
class Rows(_Leaf):
    """Every token of these rows of the call."""

    name = "rows"
    rows_: tuple[int, ...]  # the bare name is the constructor's on TokenScope

    def _at(self, ctx: Context) -> Tensor:
        index = ctx.rows if ctx.rows is not None else torch.arange(len(ctx.mask), device=ctx.mask.device)
        return _is_in(index, self.rows_)[:, None].expand_as(ctx.mask)


@dataclass(frozen=True, repr=False)
class _Pair(TokenScope):
    """Two scopes combined."""

    a: TokenScope
    b: TokenScope

    @property
    def prompt_relative(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # a constant of leaves
        return self.a.prompt_relative or self.b.prompt_relative

    @property
    def needs_tokens(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.a.needs_tokens or self.b.needs_tokens

    def _of(self, a: Any, b: Any) -> Any:
        """The combination of two masks."""
        raise NotImplementedError

    def touched(self, ctx: Context) -> bool | Tensor:
        a, b = self.a.touched(ctx), self.b.touched(ctx)
        if isinstance(a, bool) and isinstance(b, bool):
            return self._of(a, b)
        return self._of(*(m if isinstance(m, Tensor) else ctx.mask & m for m in (a, b)))

    def watched_ids(self) -> frozenset[int]:
        return self.a.watched_ids() | self.b.watched_ids()

    def to_dict(self) -> dict:
        return {"scope": self.name, "a": self.a.to_dict(), "b": self.b.to_dict()}

    @classmethod
    def _parse(cls, arguments: Mapping[str, Any]) -> TokenScope:
        if arguments.keys() != {"a", "b"} or not all(isinstance(v, Mapping) for v in arguments.values()):
            raise ScopeError(f"the token scope {cls.name!r} joins {dict(arguments)}", "it joins two scopes, a and b")
        return cls(TokenScope.from_dict(arguments["a"]), TokenScope.from_dict(arguments["b"]))

    def __repr__(self) -> str:
        a, b = (f"({scope!r})" if isinstance(scope, _Pair) else repr(scope) for scope in (self.a, self.b))
        return f"{a} {self.name} {b}"


@dataclass(frozen=True, repr=False)
class Both(_Pair):
    """In a and in b."""

    name = "&"

    def _of(self, a: Any, b: Any) -> Any:
        return a & b


@dataclass(frozen=True, repr=False)
class Either(_Pair):
    """In a or in b."""

    name = "|"

    def _of(self, a: Any, b: Any) -> Any:
        return a | b


@dataclass(frozen=True, repr=False)
class Without(_Pair):
    """In a but not in b."""

    name = "-"

    def _of(self, a: Any, b: Any) -> Any:
        return a and not b if isinstance(a, bool) else a & ~b


def _is_in(values: Tensor, wanted: Sequence[int]) -> Tensor:
    return torch.isin(values, torch.tensor(list(wanted), device=values.device, dtype=values.dtype))


_LEAVES = (All, Prompt, Generated, LastPrompt, FromPosition, Until, Positions, Window, TokenIds, AfterToken, Rows)
_KINDS: dict[str, type[TokenScope]] = {cls.name: cls for cls in (*_LEAVES, Both, Either, Without)}
