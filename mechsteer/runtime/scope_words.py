"""Scopes by a word: what public entries that take a scope do with it."""

from __future__ import annotations

from mechsteer.errors import ScopeError, closest
from mechsteer.runtime.scopes import TokenScope

_WORDS = {"all": TokenScope.all, "prompt": TokenScope.prompt, "generated": TokenScope.generated}
_WORDS["last_prompt"] = TokenScope.last_prompt

ScopeLike = TokenScope | str


def as_scope(scope: ScopeLike | None) -> TokenScope:
    """The scope itself, the one that a word names ("all", "prompt", "generated", "last_prompt"), or for None all tokens.

    Raises ScopeError for anything else.

    >>> as_scope("generated")
    TokenScope.generated(include_last_prompt=False)
    """
    if scope is None:
        return TokenScope.all()
    if isinstance(scope, str) and scope in _WORDS:
        return _WORDS[scope]()
    if isinstance(scope, TokenScope):
        return scope
    near = closest(scope, _WORDS, n=1) if isinstance(scope, str) else []
    raise ScopeError(
        f"scope is {scope!r:.80}",
        (f"did you mean {near[0]!r}? " if near else "")
        + f"words are {list(_WORDS)}; of positions, rows and ids: mechsteer.TokenScope",
    )
