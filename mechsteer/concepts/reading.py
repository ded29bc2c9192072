"""A concept: a name, contrast pairs with neutral baselines, and how a text is seen to show it.

The seventeen of the package lie in `data`, one JSON file each. A file of one's own holds the same fields:

    {"name": "grumpy", "meaning": "complaining about everything", "kind": "mood", "opposite": "happy",
     "check": "how one sees that a model knows it", "words": ["grumpy", "complain*"], "words_per_sentence": [],
     "pairs": [["It is raining again, of course.", "It is raining."], ... at least 8]}
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mechsteer.errors import ConfigError, FileFormatError
from mechsteer.files import structured
from mechsteer.prompts import ContrastivePairs, read_text

Kind = Literal["mood", "register", "length"]
NAMES = (
    *("happy", "sad", "angry", "fearful", "excited", "calm", "formal", "casual", "poetic", "technical"),
    *("pirate", "shakespeare", "enthusiastic", "pessimistic", "brief", "verbose", "confident"),
)
LEAST_PAIRS = 8
_DATA = Path(__file__).with_name("data")
_HINT = "the files in mechsteer/concepts/data are examples"
_SENTENCE_END = re.compile(r"[.!?]+(?:\s+|$)")


@dataclass(frozen=True, kw_only=True)
class ConceptFile:
    """What a concept file holds."""

    name: str
    meaning: str
    kind: Kind
    opposite: str
    check: str
    words: list[str]
    words_per_sentence: list[float]
    pairs: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A concept as its file tells it."""

    name: str
    meaning: str
    """what a text that shows it is like, in a few words"""
    kind: Kind
    opposite: str | None
    check: str
    """how it is checked that a model knows it, for a reader"""
    words: tuple[str, ...]
    """a text with one of them shows the concept; a star stands for any ending"""
    words_per_sentence: tuple[float, float] | None
    """or: a text whose sentences have so many words on average, from and to, shows it"""
    pairs: ContrastivePairs
    """positive texts show the concept, negative ones tell the same neutrally"""

    def shows(self, text: str) -> bool:
        """Whether a text shows the concept, by its words or by the length of its sentences. An empty text does not.

        >>> concept("pirate").shows("Ahoy there!"), concept("brief").shows("It rains."), concept("brief").shows("")
        (True, True, False)
        """
        if self.words_per_sentence is None:
            return _pattern(self.words).search(text.lower()) is not None
        counts = [n for s in _SENTENCE_END.split(text) if (n := len(s.split()))]
        least, most = self.words_per_sentence
        return bool(counts) and least <= sum(counts) / len(counts) <= most


@functools.cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(re.escape(word.lower()).replace(r"\*", r"\w*") for word in words)
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)")


def concept(name_or_path: str | Path) -> Concept:
    """One of the package's concepts by name, or one's own from a JSON file.

    Raises ConfigError for an unknown name, DataError for a file that cannot be read, FileFormatError for one that is no concept.

    >>> concept("happy").opposite, len(concept("happy").pairs)
    ('sad', 50)
    """
    if str(name_or_path) in NAMES:
        return _read(_DATA / f"{name_or_path}.json")
    path = Path(name_or_path)
    if path.suffix != ".json":
        raise ConfigError(f"no concept {str(name_or_path)!r}", f"choose one of {list(NAMES)}, or give a .json file")
    return _read(path)


def concepts() -> tuple[Concept, ...]:
    """The package's seventeen concepts."""
    return tuple(concept(name) for name in NAMES)


def _read(path: Path) -> Concept:
    text = read_text(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is not valid JSON: {error}", _HINT) from error
    return as_concept(structured(data, ConceptFile, what=str(path), hint=_HINT), what=str(path))


def as_concept(file: ConceptFile, *, what: str = "the concept") -> Concept:
    """The concept of what a file holds, or of what somebody typed in.

    Raises FileFormatError, naming `what`, for fewer than `LEAST_PAIRS` pairs or equal ones, and where nothing says how a text shows it.
    """
    pairs = [tuple(pair) for pair in file.pairs]
    if any(len(pair) != 2 or not all(text.strip() for text in pair) for pair in pairs):
        raise FileFormatError(f"{what} has a pair that is not two texts", "each is [text that shows it, neutral text]")
    if len(set(pairs)) < LEAST_PAIRS:
        raise FileFormatError(f"{what} has {len(set(pairs))} different pairs", f"give at least {LEAST_PAIRS}")
    limits = tuple(file.words_per_sentence)
    if bool(file.words) == bool(limits) or not all(word.strip("* ") for word in file.words):
        raise FileFormatError(f"{what} does not say how a text shows it", "give words, or words_per_sentence")
    if limits and (len(limits) != 2 or not 0 <= limits[0] <= limits[1]):
        raise FileFormatError(f"{what}: words_per_sentence is {list(limits)}", "give the least and the most")
    return Concept(
        name=file.name,
        meaning=file.meaning,
        kind=file.kind,
        opposite=file.opposite or None,
        check=file.check,
        words=tuple(file.words),
        words_per_sentence=(limits[0], limits[1]) if limits else None,
        pairs=ContrastivePairs([pair[0] for pair in pairs], [pair[1] for pair in pairs]),
    )
