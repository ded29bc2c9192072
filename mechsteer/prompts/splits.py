"""Splits by group: by a hash of the group's name, so that its part depends on nothing else.

What is split is split by group (a problem, a topic), never by row; a group's part depends neither on which others
there are, nor on order, nor on the machine.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from mechsteer.errors import DataError

Part = Literal["train", "dev", "test"]
Fractions = tuple[float, float, float]
PARTS: tuple[Part, ...] = ("train", "dev", "test")


def split_of(group: object, seed: int = 0, fractions: Fractions = (0.7, 0.15, 0.15)) -> Part:
    """The part of a group: by the hash of its name, in (train, dev, test) fractions that sum to 1.

    >>> [split_of(f"p{i}") for i in (1, 8)]
    ['train', 'test']
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise DataError(f"fractions {fractions} do not sum to 1", "give shares of train, dev and test")
    u = uniform_hash(group, seed)
    return "train" if u < fractions[0] else "dev" if u < fractions[0] + fractions[1] else "test"


def uniform_hash(group: object, seed: int = 0) -> float:
    """A number in [0, 1) that depends on the group's name and the seed alone.

    >>> uniform_hash("p1") == uniform_hash("p1"), uniform_hash("p1") == uniform_hash("p1", seed=1)
    (True, False)
    """
    digest = hashlib.sha256(f"{seed}\x1f{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
