"""Tokens put into a text that is about something else, and other tokens as common as they are.

prepend       in front of the text
intersperse   between its tokens, at positions drawn
replace       in the place of tokens drawn

A first token that is to stay first (BOS) stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from mechsteer.errors import ConfigError, DataError

How = Literal["prepend", "intersperse", "replace"]
HOWS: tuple[How, ...] = get_args(How)
NEAR = 5  # a control token is drawn among so many of the nearest frequency


def inject(text: Sequence[int], tokens: Sequence[int], how: How, rng: np.random.Generator, *, bos: bool) -> list[int]:
    """`text` with `tokens` in it; `bos`: its first token stays first. One seed draws the same places for any tokens.

    Raises DataError where fewer tokens are to be replaced than are given, ConfigError for an unknown `how`.

    >>> inject([0, 7, 8], [5, 5], "prepend", np.random.default_rng(0), bos=True)
    [0, 5, 5, 7, 8]
    """
    first, rest = list(text[:bos]), list(text[bos:])
    if how == "prepend":
        return [*first, *tokens, *rest]
    if how == "intersperse":
        for place, token in zip(np.sort(rng.integers(0, len(rest) + 1, len(tokens)))[::-1], tokens, strict=True):
            rest.insert(int(place), token)
        return [*first, *rest]
    if how == "replace":
        if len(rest) < len(tokens):
            raise DataError(f"{len(tokens)} tokens replace those of a text of {len(rest)}", "give longer texts")
        for place, token in zip(rng.choice(len(rest), len(tokens), replace=False), tokens, strict=True):
            rest[int(place)] = token
        return [*first, *rest]
    raise ConfigError(f"unknown injection {how!r}", f"known: {HOWS}")


def matched_tokens(
    tokens: Sequence[int], counts: Mapping[int, int], exclude: Collection[int], rng: np.random.Generator
) -> dict[int, int]:
    """{token: another as common}: drawn among the `NEAR` tokens of the nearest log count, each used once while they last.

    `counts`: how often each token occurs in the corpus; none of `tokens` and `exclude` is drawn. Raises DataError where
    no other token occurs.
    """
    others = sorted(token for token in counts if token not in set(tokens) | set(exclude))
    if not others:
        raise DataError("no other token occurs in the corpus", "give a larger corpus")
    found: dict[int, int] = {}
    for token in tokens:
        free = [other for other in others if other not in found.values()] or others
        size = math.log(max(counts.get(token, 0), 1))
        near = sorted(free, key=lambda other: (abs(math.log(counts[other]) - size), other))[:NEAR]
        found[token] = near[int(rng.integers(len(near)))]
    return found
