"""Contrastive pairs of personas and suffixes: the two texts differ in a few words of a prefix and share what follows.

("Pretend you are an honest person. The moon", "Pretend you are a dishonest person. The moon")
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mechsteer.errors import DataError
from mechsteer.prompts.files import Row, malformed, read_files
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


def read_pairs(
    path: str | os.PathLike[str] | Any, personas: Sequence[tuple[str, str]] = (), *, template: str = TEMPLATE
) -> ContrastivePairs:
    """Pairs of a file (see `read_rows`): rows with positive and negative texts, or suffixes behind every persona.

    Suffixes are plain texts, as the lists of vgel/repeng's notebooks are; blank ones and repeats are left out. Raises
    DataError naming file and line of what is neither, and for suffixes without personas.
    """
    rows = [(file, row) for file, some in read_files(path) for row in some]
    if not isinstance(rows[0][1].data, str):
        return ContrastivePairs.read(path)
    if not personas:
        raise DataError(f"{path} holds suffixes, and there are no personas", "give (positive, negative) ones")
    return persona_pairs(personas, [_suffix(*where) for where in rows], template=template)


def _suffix(path: Path, row: Row) -> str:
    if not isinstance(row.data, str):
        raise malformed(
            path, row.line, f"a suffix is expected as in the first row, this is a {type(row.data).__name__}"
        )
    return row.data
