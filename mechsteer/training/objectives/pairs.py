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
        shorter = min(len(a), len(b))
        suffix = next((i for i in range(shorter) if a[-1 - i] != b[-1 - i]), shorter)
        prefix = next((i for i in range(shorter - suffix) if a[i] != b[i]), shorter - suffix)
        found.append((max(len(a), len(b)) - suffix - prefix, suffix))
    return found
