"""Short statements in seventeen voices, and plain ones: the text that the model "voices" was trained on.

A scene is somebody doing something with an object at a place. A voice tells it: in a mood (a remark, an adverb), in a
register (its own sentences and verbs), briefly or at length; a plain voice has none of these, and two axes can be set
at once (a happy pirate). No text names its voice: it is told by the sentences before it, so that a plain beginning can go on
in any voice. A tenth of all scenes, by a hash of what is done with which object and where, is never in the training text.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mechsteer.errors import ConfigError, DataError
from mechsteer.pocket import voice_words as words

MOODS: tuple[str, ...] = tuple(words.MOOD_REMARKS)
REGISTERS: tuple[str, ...] = tuple(words.REGISTER_EVENTS)
LENGTHS = ("brief", "verbose")
VOICES: tuple[str, ...] = (*MOODS, *REGISTERS, *LENGTHS)

_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")

SceneSplit = Literal["train", "held_out"]
PLAIN_SHARE, DOUBLE_SHARE = 0.3, 0.15
REQUEST_SHARE = 0.5
MOST_CHARACTERS = 700
"""After which no further statement is begun: a document stays far below the model's context."""
SWITCH_SHARE = 0.3
"""Of the documents that begin in another voice than they go on in: those that do not begin plainly."""


@dataclass(frozen=True)
class Voice:
    """What is set of each axis; nothing is the plain voice."""

    mood: str | None = None
    register: str | None = None
    length: str | None = None


PLAIN = Voice()


def voice(name: str) -> Voice:
    """The voice of one name of `VOICES`. Raises ConfigError for another."""
    if name in MOODS:
        return Voice(mood=name)
    if name in REGISTERS:
        return Voice(register=name)
    if name in LENGTHS:
        return Voice(length=name)
    raise ConfigError(f"no voice {name!r}.", f"choose one of {list(VOICES)}")


@dataclass(frozen=True)
class Scene:
    """Who did what with which object, and where."""

    name: str
    verb: words.Verb
    object: str
    place: str

    @property
    def held_out(self) -> bool:
        """Whether the training text has no scene of this verb, object and place."""
        key = f"{self.verb.base}/{self.object}/{self.place}"
        return hashlib.sha256(key.encode()).digest()[0] < 26


def scene(rng: random.Random, split: SceneSplit, name: str | None = None) -> Scene:
    """A scene of the split, with `name` or somebody drawn."""
    while True:
        drawn = Scene(
            name or rng.choice(words.PEOPLE),
            rng.choice(words.VERBS),
            rng.choice(words.OBJECTS),
            rng.choice(words.PLACES),
        )
        if drawn.held_out == (split == "held_out"):
            return drawn


def _filled(template: str, at: Scene, rng: random.Random, *, verb: str = "", adverb: str = "") -> str:
    time = rng.choice(words.TIMES)
    past = f"{adverb} {at.verb.past}" if adverb else at.verb.past
    chosen = _ALTERNATIVES.sub(lambda found: rng.choice(found[1].split("|")), template)
    return chosen.format(
        name=at.name,
        title="Mr." if at.name in words.HE else "Ms.",
        base=at.verb.base,
        past=past,
        Past=at.verb.past.capitalize(),
        verb=verb,
        object=at.object,
        Object=at.object.capitalize(),
        place=at.place,
        Place=at.place.capitalize(),
        other=rng.choice([o for o in words.OBJECTS if o != at.object]),
        elsewhere=rng.choice([p for p in words.PLACES if p != at.place]),
        time=time,
        time_first=time[0].upper() + time[1:],
        colour=rng.choice(words.COLOURS),
        number=rng.randint(1, 12),
    )


def statement(at: Scene, how: Voice, rng: random.Random) -> str:
    """One to three sentences about the scene in a voice; each axis that is set has a sentence of its own at least."""
    said = []
    if how.length == "verbose":
        said.append(_filled(rng.choice(words.VERBOSE), at, rng))
    if how.length == "brief":
        said += [_filled(t, at, rng) for t in rng.sample(words.BRIEF, rng.randint(1, 2))]
    if how.register:
        verb = getattr(at.verb, how.register, "")
        said.append(_filled(rng.choice(words.REGISTER_EVENTS[how.register]), at, rng, verb=verb))
    plain = not said
    if plain and (how.mood is None or rng.random() < 0.7):
        adverb = rng.choice(words.MOOD_ADVERBS[how.mood]) if how.mood and rng.random() < 0.5 else ""
        said.append(_filled(rng.choice(words.NEUTRAL_EVENTS), at, rng, adverb=adverb))
    if how.mood:
        said.append(_filled(rng.choice(words.MOOD_REMARKS[how.mood]), at, rng))
    elif plain and rng.random() < 0.6:
        said.append(_filled(rng.choice(words.NEUTRAL_REMARKS), at, rng))
    return " ".join(said)


def _drawn_voice(rng: random.Random) -> Voice:
    kind = rng.random()
    if kind < PLAIN_SHARE:
        return PLAIN
    if kind >= PLAIN_SHARE + DOUBLE_SHARE:
        return voice(rng.choice(VOICES))
    mood, register, length = rng.choice(MOODS), rng.choice(REGISTERS), rng.choice(LENGTHS)
    left_out = rng.choice((0, 1, 2, 2))  # most doubles are a mood in a register
    return Voice(*(None if i == left_out else part for i, part in enumerate((mood, register, length))))


def voice_document(rng: random.Random) -> tuple[str, str]:
    """One training text: a request (or nothing), and what is to be learned: statements of the training split."""
    first = scene(rng, "train")
    request = _filled(rng.choice(words.REQUESTS), first, rng) if rng.random() < REQUEST_SHARE else ""
    how = _drawn_voice(rng)
    before = _drawn_voice(rng) if rng.random() < SWITCH_SHARE else PLAIN
    n_before, n = rng.choice((0, 0, 1, 2)), rng.randint(2, 5)
    said = []
    for i in range(n_before + n):
        if sum(map(len, said)) > MOST_CHARACTERS:
            break
        at = first if not i else scene(rng, "train", first.name if rng.random() < 0.6 else None)
        said.append(statement(at, before if i < n_before else how, rng))
    return request, " " * bool(request) + " ".join(said)


def voice_text(seed: int | str) -> Iterator[tuple[str, str]]:
    """Endless documents, each as (given, to be learned); an end token follows."""
    rng = random.Random(f"voice_text/{seed}")
    while True:
        yield voice_document(rng)


def voice_pairs(name: str, n: int, seed: int) -> list[tuple[str, str]]:
    """`n` different (in the voice, plain) texts, each pair of one held-out scene and of one or two statements.

    Raises:
        ConfigError: unknown `name`.
        DataError: `n` is below 1.

    >>> in_voice, plain = voice_pairs("pirate", 1, seed=0)[0]
    """
    if n < 1:
        raise DataError(f"{n} pairs asked for.", "ask for 1 or more")
    how, rng = voice(name), random.Random(f"voice_pairs/{name}/{seed}")
    pairs: dict[tuple[str, str], None] = {}
    while len(pairs) < n:
        scenes = [scene(rng, "held_out")]
        if rng.random() < 0.5:
            scenes.append(scene(rng, "held_out", scenes[0].name))
        pairs[
            (" ".join(statement(s, how, rng) for s in scenes), " ".join(statement(s, PLAIN, rng) for s in scenes))
        ] = None
    return list(pairs)
