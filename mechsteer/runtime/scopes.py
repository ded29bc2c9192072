"""TokenScope: which positions an intervention touches.

Positions are absolute and row-relative: the first real token of a row is position 0, padding has position -1
and is never touched. A scope asks only a `Context`, which is the same for a row alone or in a left-padded
batch, and for a pass over the whole text or one token at a time under a KV cache; so is the scope's answer.

>>> TokenScope.generated(include_last_prompt=True) - TokenScope.token_ids([2])
TokenScope.generated(include_last_prompt=True) - TokenScope.token_ids([2])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mechsteer.errors import ScopeError
from mechsteer.shapes import Lengths, Mask, Positions, Tokens


@dataclass(frozen=True)
class Context:
    """What a hook is not told about the forward it runs in. [batch pos] are the tokens of this forward alone."""

    mask: Mask  # real tokens
    positions: Positions  # absolute and row-relative; -1 at padding
    prompt_lengths: Lengths  # in real tokens
    is_prefill: bool  # the forward begins its rows (no filled cache)
    tokens: Tokens | None = None  # None where embeddings were given instead
    rows: Tensor | None = None  # [batch] index of each row among all prompts of the call
    all_real: bool = False  # there is no padding in this forward
    seen: Mapping[int, Tensor] = field(
        default_factory=dict
    )  # watched token id -> [batch] it came in an earlier forward

    @classmethod
    def whole(
        cls,
        batch: int,
        pos: int,
        *,
        attention_mask: Tensor | None = None,
        prompt_lengths: Tensor | Sequence[int] | None = None,
        tokens: Tensor | None = None,
        rows: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> Context:
        """The context of one uncached forward over [batch pos] tokens; without `prompt_lengths` all of it is prompt."""
        mask = (
            torch.ones(batch, pos, dtype=torch.bool, device=device) if attention_mask is None else attention_mask.bool()
        )
        counts = mask.long().cumsum(1)
        lengths = counts[:, -1] if prompt_lengths is None else torch.as_tensor(prompt_lengths, device=mask.device)
        if lengths.shape != (batch,):
            raise ScopeError(
                f"prompt_lengths has shape {tuple(lengths.shape)}, the batch has {batch} rows",
                "pass one length (in real tokens) per row",
            )
        return cls(
            mask=mask,
            positions=torch.where(mask, counts - 1, -1),
            prompt_lengths=lengths.long(),
            is_prefill=True,
            tokens=tokens,
            rows=rows,
            all_real=attention_mask is None or bool(mask.all()),
        )


class TokenScope:
    """A set of positions. Build it from the class methods below and combine with `a & b`, `a | b`, `a - b`.

    `touched(ctx)` answers True (every real token of this forward), False (none) or a [batch pos] bool mask
    that is False at padding.
    """

    name: str = ""
    prompt_relative = False  # its positions depend on where the prompt ends
    needs_tokens = False

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
        return _Pair("&", self, other)

    def __or__(self, other: TokenScope) -> TokenScope:
        return _Pair("|", self, other)

    def __sub__(self, other: TokenScope) -> TokenScope:
        return _Pair("-", self, other)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenScope) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self))

    @staticmethod
    def all() -> TokenScope:
        """Every real token."""
        return _Leaf("all")

    @staticmethod
    def prompt() -> TokenScope:
        """Positions before the prompt's length."""
        return _Leaf("prompt")

    @staticmethod
    def generated(include_last_prompt: bool = False) -> TokenScope:
        """Positions from the prompt's length on.

        The last prompt position, which predicts the first new token, is not among them unless
        `include_last_prompt`.
        """
        return _Leaf("generated", include_last_prompt=bool(include_last_prompt))

    @staticmethod
    def last_prompt() -> TokenScope:
        """The last prompt position alone."""
        return _Leaf("last_prompt")

    @staticmethod
    def from_position(p: int) -> TokenScope:
        """Positions p and later."""
        return _Leaf("from_position", p=_position(p))

    @staticmethod
    def until(p: int) -> TokenScope:
        """Positions before p."""
        return _Leaf("until", p=_position(p))

    @staticmethod
    def positions(positions: Iterable[int]) -> TokenScope:
        """Just these positions."""
        return _Leaf("positions", positions=[_position(p) for p in positions])

    @staticmethod
    def window(a: int, b: int) -> TokenScope:
        """Positions a <= position < b."""
        if _position(b) <= _position(a):
            raise ScopeError(f"window({a}, {b}) is empty", "the window is half-open: a <= position < b")
        return _Leaf("window", a=int(a), b=int(b))

    @staticmethod
    def token_ids(ids: Iterable[int]) -> TokenScope:
        """Every token with one of these ids."""
        return _Leaf("token_ids", ids=sorted({int(i) for i in ids}))

    @staticmethod
    def after_token(token_id: int) -> TokenScope:
        """From the first occurrence of `token_id` in the row on, that token included; never in rows without it."""
        return _Leaf("after_token", id=int(token_id))

    @staticmethod
    def rows(rows: Iterable[int]) -> TokenScope:
        """Every token of these rows: a per-row condition. Rows are indices into the prompts of the call."""
        return _Leaf("rows", rows=sorted({int(r) for r in rows}))

    @staticmethod
    def from_dict(data: Mapping) -> TokenScope:
        """Rebuild a scope from `to_dict`; raises ScopeError for an unknown kind."""
        arguments = {k: v for k, v in data.items() if k != "scope"}
        kind = data.get("scope")
        if kind in _COMBINE:
            return _Pair(kind, TokenScope.from_dict(data["a"]), TokenScope.from_dict(data["b"]))
        if kind not in _TOUCHED:
            raise ScopeError(f"unknown token scope {kind!r}", f"known scopes: {sorted(_TOUCHED)}")
        return _Leaf(kind, **arguments)


def _position(p: int) -> int:
    if p < 0:
        raise ScopeError(f"position {p} is negative", "positions are absolute: 0 is the first real token of a row")
    return int(p)


class _Leaf(TokenScope):
    def __init__(self, kind: str, **arguments) -> None:
        self.name, self.arguments = kind, arguments
        self.prompt_relative = kind in ("prompt", "generated", "last_prompt")
        self.needs_tokens = kind in ("token_ids", "after_token")

    def touched(self, ctx: Context) -> bool | Tensor:
        if self.needs_tokens and ctx.tokens is None:
            raise ScopeError(
                f"{self!r} needs token ids", "pass tokens=..., or run the model on tokens, not on embeddings"
            )
        found = _TOUCHED[self.name](ctx, **self.arguments)
        if isinstance(found, Tensor):
            return found & ctx.mask
        return ctx.mask if found and not ctx.all_real else found

    def watched_ids(self) -> frozenset[int]:
        return frozenset([self.arguments["id"]]) if self.name == "after_token" else frozenset()

    def to_dict(self) -> dict:
        return {"scope": self.name, **self.arguments}

    def __repr__(self) -> str:
        if self.name in ("generated",):
            inside = ", ".join(f"{k}={v}" for k, v in self.arguments.items())
        else:
            inside = ", ".join(str(v) for v in self.arguments.values())
        return f"TokenScope.{self.name}({inside})"


class _Pair(TokenScope):
    def __init__(self, operator: str, a: TokenScope, b: TokenScope) -> None:
        self.name, self.a, self.b = operator, a, b
        self.prompt_relative = a.prompt_relative or b.prompt_relative
        self.needs_tokens = a.needs_tokens or b.needs_tokens

    def touched(self, ctx: Context) -> bool | Tensor:
        a, b = self.a.touched(ctx), self.b.touched(ctx)
        if isinstance(a, bool) and isinstance(b, bool):
            return {"&": a and b, "|": a or b, "-": a and not b}[self.name]
        mask_a, mask_b = (m if isinstance(m, Tensor) else ctx.mask & m for m in (a, b))
        return _COMBINE[self.name](mask_a, mask_b)

    def watched_ids(self) -> frozenset[int]:
        return self.a.watched_ids() | self.b.watched_ids()

    def to_dict(self) -> dict:
        return {"scope": self.name, "a": self.a.to_dict(), "b": self.b.to_dict()}

    def __repr__(self) -> str:
        def wrap(scope: TokenScope) -> str:
            return f"({scope!r})" if isinstance(scope, _Pair) else repr(scope)

        return f"{wrap(self.a)} {self.name} {wrap(self.b)}"


_COMBINE = {"&": lambda a, b: a & b, "|": lambda a, b: a | b, "-": lambda a, b: a & ~b}


def _prompt_end(ctx: Context) -> Tensor:
    return ctx.prompt_lengths[:, None]


def _generated(ctx: Context, include_last_prompt: bool) -> bool | Tensor:
    # Under a cache every later forward is generated text: no mask needed.
    return True if not ctx.is_prefill else ctx.positions >= _prompt_end(ctx) - int(include_last_prompt)


def _after_token(ctx: Context, id: int) -> Tensor:
    assert ctx.tokens is not None
    here = ((ctx.tokens == id) & ctx.mask).long().cumsum(1) > 0
    return here | ctx.seen[id][:, None] if id in ctx.seen else here


def _is_in(values: Tensor, wanted: Sequence[int]) -> Tensor:
    return torch.isin(values, torch.tensor(list(wanted), device=values.device, dtype=values.dtype))


def _rows(ctx: Context, rows: Sequence[int]) -> Tensor:
    index = ctx.rows if ctx.rows is not None else torch.arange(len(ctx.mask), device=ctx.mask.device)
    return _is_in(index, rows)[:, None].expand_as(ctx.mask)


_TOUCHED = {
    "all": lambda _ctx: True,
    "prompt": lambda ctx: ctx.is_prefill and ctx.positions < _prompt_end(ctx),
    "generated": _generated,
    "last_prompt": lambda ctx: ctx.is_prefill and ctx.positions == _prompt_end(ctx) - 1,
    "from_position": lambda ctx, p: ctx.positions >= p,
    "until": lambda ctx, p: ctx.positions < p,
    "positions": lambda ctx, positions: _is_in(ctx.positions, positions),
    "window": lambda ctx, a, b: (ctx.positions >= a) & (ctx.positions < b),
    "token_ids": lambda ctx, ids: _is_in(ctx.tokens, ids),
    "after_token": _after_token,
    "rows": _rows,
}
