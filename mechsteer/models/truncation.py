"""Prompts that are longer than what the model can read: refused, or cut where the caller says."""

from __future__ import annotations

from typing import Any, Literal, get_args

from mechsteer.errors import ConfigError, DataError

Truncation = Literal["left", "right", False]


def check_truncation(truncate: Any) -> None:
    """Raise ConfigError for anything but "left", "right" and False (which 0 would equal)."""
    if truncate is not False and (not isinstance(truncate, str) or truncate not in get_args(Truncation)):
        raise ConfigError(f"truncate is {truncate!r}", f"choose one of {list(get_args(Truncation))}")


def fitted(ids: list[int], room: int, truncate: Truncation, *, bos: int | None, name: str, why: str) -> list[int]:
    """`ids`, at most `room` of them: "left" cuts the beginning off, behind a BOS, "right" the end.

    Raises DataError where they do not fit and nothing may be cut, or nothing would be left.

    >>> fitted([9, 1, 2, 3], 3, "left", bos=9, name="prompt 0", why="")
    [9, 2, 3]
    """
    if len(ids) <= room:
        return ids
    n_kept = int(truncate == "left" and ids[0] == bos)  # of the beginning
    if truncate is False or room <= n_kept:
        hint = (
            "shorten it, leave it out, or cut it: truncate='left' keeps its end, 'right' its beginning (here, or in "
            "mechsteer.models.tokenize, whose token ids are taken wherever prompts are)"
        )
        raise DataError(f"{name} has {len(ids)} tokens, {why}", hint if room > n_kept else "ask for fewer new tokens")
    return ids[:room] if truncate == "right" else [*ids[:n_kept], *ids[len(ids) - room + n_kept :]]
