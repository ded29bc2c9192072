"""Scopes that can touch nothing, told before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mechsteer.errors import ScopeError
from mechsteer.runtime import scopes


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What is known of the rows before any of them runs."""

    d_vocab: int
    n_positions: int  # of the longest row
    n_rows: int | None = None  # None: not known


def require_reachable(interventions: Sequence[Any], bounds: Bounds) -> None:
    """Raise ScopeError for an intervention or observation whose scope can touch nothing within these bounds."""
    for iv in interventions:
        why = unreachable(iv.scope, bounds)
        if why is not None:
            raise ScopeError(f"{iv.scope!r} can touch nothing: {why}", "choose positions, rows or ids that are there")


def unreachable(scope: scopes.TokenScope, bounds: Bounds) -> str | None:
    """Why the scope can touch no token within these bounds; None where it may."""
    match scope:
        case scopes.Both(a, b):
            return unreachable(a, bounds) or unreachable(b, bounds)
        case scopes.Either(a, b):
            both = unreachable(a, bounds), unreachable(b, bounds)
            return "; ".join(map(str, both)) if all(both) else None
        case scopes.Without(a, _):
            return unreachable(a, bounds)
        case scopes.FromPosition(first) | scopes.Window(first, _):
            return _too_late(first, bounds)
        case scopes.Positions(named):
            return _too_late(min(named), bounds) if named else "it names no position"
        case scopes.Until(0):
            return "no position comes before 0"
        case scopes.TokenIds(ids):
            return _outside(ids, bounds) if ids else "it names no id"
        case scopes.AfterToken(id):
            return _outside([id], bounds)
        case scopes.Rows(rows):
            return _no_row(rows, bounds)
    return None


def _too_late(first: int, bounds: Bounds) -> str | None:
    if first < bounds.n_positions:
        return None
    return f"rows have positions 0 to {bounds.n_positions - 1} at most, it begins at {first}"


def _outside(ids: Sequence[int], bounds: Bounds) -> str | None:
    outside = [i for i in ids if not 0 <= i < bounds.d_vocab]
    return f"the vocabulary of {bounds.d_vocab} has no {outside}" if outside else None


def _no_row(rows: Sequence[int], bounds: Bounds) -> str | None:
    if not rows:
        return "it names no row"
    if bounds.n_rows is None or min(rows) < bounds.n_rows:
        return None
    return f"there are {bounds.n_rows} prompts, rows 0 to {bounds.n_rows - 1}"
