"""The options of an item, and how the likelihoods of long and short ones are made comparable."""

from __future__ import annotations

from typing import Literal

from mechsteer.errors import DataError
from mechsteer.tasks.base import Item

Normalise = Literal["none", "tokens", "characters"]
"""what an option's log-likelihood is divided by: nothing, or its number of tokens or of characters"""


def options_of(item: Item) -> tuple[str, ...]:
    """The options of an item. Raises DataError where there are fewer than two, or the answer is none of them."""
    options = item.meta.get("options")
    if not isinstance(options, (list, tuple)) or len(options) < 2 or not all(isinstance(o, str) for o in options):
        raise DataError(f"item {item.id!r} has no options", 'give its texts to choose from in meta["options"]')
    if item.answer not in options:
        raise DataError(f"the answer {item.answer!r} of item {item.id!r} is none of its options", f"it has {options!r}")
    return tuple(options)


def option_size(text: str, n_tokens: int, normalise: Normalise) -> int:
    """What the option's log-likelihood is divided by; characters are counted without the spaces around it."""
    return {"none": 1, "tokens": n_tokens, "characters": len(text.strip())}[normalise]
