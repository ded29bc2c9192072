"""Token ids and text of what stands behind other text.

SentencePiece tokenizers put a space before whatever they are given and take one off whatever they decode: alone,
" happy" becomes the tokens of "  happy", and the token of " happy" reads "happy". Behind other text both come out
right, for every kind of tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BREAK, _LETTER = "\n", "a"  # no tokenizer merges a line break with a word, or a letter with what is decoded behind it


def continuation_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` where it continues another: no BOS, no space that is not in it."""
    before = _encode(tokenizer, _BREAK)
    whole = _encode(tokenizer, _BREAK + text)
    if before and whole[: len(before)] == before:
        return whole[len(before) :]
    return _encode(tokenizer, text)  # it begins with a break of its own, which merges


def continuation_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of token ids where they continue another text: leading spaces are kept."""
    before = _encode(tokenizer, _LETTER)
    start, whole = _decode(tokenizer, before), _decode(tokenizer, [*before, *ids])
    return whole[len(start) :] if start and whole.startswith(start) else _decode(tokenizer, list(ids))


def token_text(tokenizer: Any, token_id: int) -> str:
    """What one token reads like inside a text."""
    return continuation_text(tokenizer, [token_id])


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
