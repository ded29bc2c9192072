"""Contrastive pairs as rows of token ids, and how far their two texts share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mechsteer.errors import DataError
from mechsteer.models import tokenize
from mechsteer.prompts import ContrastivePairs
from mechsteer.runtime.batches import Pair

PairsLike = ContrastivePairs | Sequence[tuple[str, str]]


def scored_rows(model: Any, pairs: PairsLike) -> list[Pair]:
    """(first token, the rest) of positive, negative, positive, ...: all but the first are scored."""
    texts = [text for pair in pairs for text in pair]
    rows = tokenize(model, texts)
    for text, ids in zip(texts, rows, strict=True):
        if len(ids) < 2:
            raise DataError(f"the text {text!r:.60} is a single token", "a pair needs texts of two tokens or more")
    return [(ids[:1], ids[1:]) for ids in rows]


def shared_tokens(model: Any, pairs: PairsLike) -> list[tuple[int, int]]:
    """Per pair (tokens in which the texts differ, of the longer one; tokens of the suffix that they share).

    A pair for a contrastive loss differs in one to six, and shares at least as many as the loss looks at.
    """
    found = []
    for positive, negative in pairs:
        a, b = tokenize(model, [positive, negative])
        suffix, shorter = shared_suffix(a, b), min(len(a), len(b))
        prefix = next((i for i in range(shorter - suffix) if a[i] != b[i]), shorter - suffix)
        found.append((max(len(a), len(b)) - suffix - prefix, suffix))
    return found


def shared_suffix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens the two share at their ends."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[-1 - i] != b[-1 - i]), shorter)


def require_suffix(rows: Sequence[Pair], n: int) -> None:
    """Raise DataError for a pair of rows (positive, negative, ...) of which not even the last token is the same.

    A loss looks at the last `n`; sharing fewer is allowed, statements that differ near their end are told apart so.
    """
    texts = [[*first, *rest] for first, rest in rows]
    for number, (a, b) in enumerate(zip(texts[::2], texts[1::2], strict=True)):
        if not shared_suffix(a, b):
            raise DataError(
                f"the texts of pair {number} share no token at their end, and the loss looks at the last {n}",
                "give pairs that differ in a few words of a prefix and share what follows",
            )
