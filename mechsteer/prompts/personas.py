"""Contrastive pairs of personas and suffixes: the two texts differ in a few words of a prefix and share what follows.

("Pretend you are an honest person. The moon", "Pretend you are a dishonest person. The moon")
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from mechsteer.errors import DataError
from mechsteer.prompts.sets import ContrastivePairs

TEMPLATE = "Pretend you are {persona} person. {suffix}"


def persona_pairs(
    personas: Sequence[tuple[str, str]],
    suffixes: Sequence[str],
    n: int | None = None,
    *,
    template: str = TEMPLATE,
    seed: int = 0,
) -> ContrastivePairs:
    """`n` (default: all) of the pairs of a persona (positive, negative) and a suffix, drawn without replacement.

    The suffix is the pair's group, so that a split holds whole suffixes out; empty ones and repeats are left out.
    `template` names {persona} and ends in {suffix}. Raises DataError for a template that does not, for personas that are
    no two texts, and where fewer than `n` are there.

    >>> persona_pairs([("an honest", "a lying")], ["The moon"])[0][1]
    'Pretend you are a lying person. The moon'
    """
    if "{persona}" not in template or not template.endswith("{suffix}"):
        raise DataError(
            f"the template is {template!r:.80}", "it names {persona} and ends in {suffix}, which both texts share"
        )
    for pair in personas:
        if isinstance(pair, str) or len(pair) != 2 or pair[0] == pair[1]:
            raise DataError(f"{pair!r:.80} are no two personas", "give (positive, negative) texts that differ")
    ends = list(dict.fromkeys(suffix for suffix in suffixes if suffix.strip()))
    every = list(itertools.product(personas, ends))
    n = len(every) if n is None else n
    if not 0 < n <= len(every):
        raise DataError(f"{n} pairs of {len(personas)} personas and {len(ends)} suffixes", f"ask for 1 to {len(every)}")
    drawn = random.Random(f"personas/{seed}").sample(every, n)

    def side(i: int) -> list[str]:
        # not str.format: a suffix may hold braces
        return [template.replace("{persona}", pair[i]).removesuffix("{suffix}") + end for pair, end in drawn]

    return ContrastivePairs(side(0), side(1), groups=[end for _, end in drawn])
