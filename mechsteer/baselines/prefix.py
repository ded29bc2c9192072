"""Prompting: the persona of the pairs put before every text, the positive one where c > 0, the negative one where c < 0.

"Pretend you are an honest person. The moon" / "Pretend you are a dishonest person. The moon"
-> "Pretend you are an honest person. " / "Pretend you are a dishonest person. "
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from mechsteer.baselines.base import Method, Prompted
from mechsteer.baselines.setup import Setup
from mechsteer.errors import DataError

_END = re.compile(r"[.!?;:\n]+(\s+|$)")


def persona_prefixes(pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The commonest (positive, negative) prefix, the first of those that are as common.

    A prefix ends with the sentence or clause of the last word in which the two texts differ. Raises DataError where the
    texts of no pair differ.

    >>> persona_prefixes([("I love cheese; let me tell you", "I hate cheese; let me tell you")])
    ('I love cheese; ', 'I hate cheese; ')
    """
    found = Counter(_prefixes(*pair) for pair in pairs if pair[0] != pair[1])
    if not found:
        raise DataError("the two texts of every pair are the same", "give pairs that differ in a persona")
    return found.most_common(1)[0][0]


def _prefixes(positive: str, negative: str) -> tuple[str, str]:
    words = [text.split(" ") for text in (positive, negative)]
    shorter = min(map(len, words))
    shared = next((i for i in range(shorter) if words[0][-1 - i] != words[1][-1 - i]), shorter)
    suffix = " ".join(words[0][len(words[0]) - shared :]) if shared else ""
    # what the two texts share begins in a sentence of the persona's, unless the last word that differs ends one
    ends = [_END.search(text, max(len(text) - len(suffix) - 2, 0)) for text in (positive, negative)]
    first, second = (text[: end.end()] if end else text for text, end in zip((positive, negative), ends, strict=True))
    return _spaced(first), _spaced(second)


def _spaced(prefix: str) -> str:
    return prefix if prefix[-1:].isspace() else f"{prefix} "


def by_prompt(setup: Setup) -> Method:
    """The prefixes of the pairs."""
    return Prompted("prompting", setup.model, *persona_prefixes(list(setup.pairs)))
