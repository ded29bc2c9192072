"""Texts that are too long for a model's context: refused, left out, or cut at one end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from mechsteer.errors import DataError

Fit = Literal["drop", "left", "right"]
FITS: tuple[Fit, ...] = ("drop", "left", "right")


def fitted(texts: Sequence[str], model: Any, how: Fit | None, *, room: int = 0) -> list[str | None]:
    """The texts, each of at most the model's context less `room` tokens; None where one is left out.

    `how`: "drop" leaves out what is longer, "right" keeps its beginning and "left" its end, cut between characters so
    that as many tokens as possible stay. Raises DataError where one is longer and `how` is None, and for no room.
    """
    most = model.cfg.n_ctx - room
    if how not in (None, *FITS):
        raise DataError(f"truncate is {how!r}", f"give one of {list(FITS)}, or None to refuse what is too long")
    if most < 2:
        raise DataError(f"room for {room} tokens leaves none of the context of {model.cfg.n_ctx}", "leave less room")

    long = {i: n for i, text in enumerate(texts) if (n := n_tokens(text, model)) > most}
    if long and how is None:
        first, n = next(iter(long.items()))
        behind = f", less {room} for what follows" if room else ""
        raise DataError(
            f"{len(long)} of {len(texts)} texts are too long for the context of {model.cfg.n_ctx}{behind}: "
            f"text {first} has {n} tokens",
            "truncate=drop leaves them out, truncate=right keeps their beginning, truncate=left their end",
        )
    kept: list[str | None] = list(texts)
    for i in long:
        kept[i] = (
            None
            if how == "drop"
            else _longest(texts[i], lambda text: n_tokens(text, model) <= most, how == "left") or None
        )
    return kept


def n_tokens(text: str, model: Any) -> int:
    """Tokens of a text as a model reads it, or as a tokenizer encodes it; with a BOS where there is one."""
    to_tokens = getattr(model, "to_tokens", None)
    return len(model.encode(text)) if to_tokens is None else int(to_tokens(text, truncate=False).shape[-1])


def _longest(text: str, fits: Callable[[str], bool], at_the_end: bool) -> str:
    """The longest beginning (or end) of a text that fits, by bisection; without white space at the cut."""
    low, high = 0, len(text)  # so many characters fit; so many do not

    def part(n: int) -> str:
        return text[len(text) - n :] if at_the_end else text[:n]

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(part(middle)) else (low, middle)
    return part(low).lstrip() if at_the_end else part(low).rstrip()
