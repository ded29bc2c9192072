"""The seventeen concept files, and how a text is seen to show a concept."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from mechsteer.concepts import NAMES, Concept, ConceptFile, as_concept, concept, concepts
from mechsteer.errors import ConfigError, DataError, FileFormatError
from mechsteer.pocket import voices

GOOD: dict[str, Any] = {
    "name": "grumpy",
    "meaning": "complaining",
    "kind": "mood",
    "opposite": "",
    "check": "by its words",
    "words": ["complain*", "c++"],
    "words_per_sentence": [],
    "pairs": [[f"I complain about {i}.", f"I speak about {i}."] for i in range(8)],
}


def test_there_are_seventeen_in_the_order_of_their_names() -> None:
    assert tuple(c.name for c in concepts()) == NAMES
    assert len(set(NAMES)) == 17
    assert set(NAMES) == set(voices.VOICES)


@pytest.mark.parametrize("name", NAMES)
def test_every_pair_differs_in_the_concept(name: str) -> None:
    found = concept(name)
    assert len(found.pairs) >= 8
    assert [found.shows(text) for text in found.pairs.positive] == [True] * len(found.pairs)
    assert [found.shows(text) for text in found.pairs.negative] == [False] * len(found.pairs)
    assert found.name in found.check
    assert found.meaning


def test_opposites_are_concepts_of_another_name() -> None:
    for c in concepts():
        assert c.opposite is None or (c.opposite in NAMES and c.opposite != c.name)


@pytest.mark.parametrize("name", NAMES)
def test_no_other_voice_shows_it(name: str) -> None:
    shown, drawn = concept(name), random.Random(1)
    for other in set(NAMES) - {name}:
        texts = [voices.statement(voices.scene(drawn, "train"), voices.voice(other), drawn) for _ in range(60)]
        assert sum(shown.shows(text) for text in texts) <= 1, other


def test_words_are_whole_and_stars_open_the_end() -> None:
    found = as_concept(ConceptFile(**GOOD))
    assert found.shows("They COMPLAINED.")
    assert found.shows("He wrote c++, then left.")
    assert not found.shows("I uncomplain; cc++d; c+")
    assert not concept("happy").shows("This is what happened, unhappily.")


def test_sentences_are_counted() -> None:
    found = as_concept(ConceptFile(**GOOD | {"words": [], "words_per_sentence": [2, 3]}))
    assert found.shows("One two. One two three four!")
    assert not found.shows("One two three. One two three four?")
    assert not found.shows(" ... ")
    assert not found.shows("")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": GOOD["pairs"][:7]}, "has 7 different pairs"),
        ({"pairs": GOOD["pairs"][:7] + GOOD["pairs"][:1]}, "has 7 different pairs"),
        ({"pairs": [*GOOD["pairs"], ["a"]]}, "a pair that is not two texts"),
        ({"pairs": [*GOOD["pairs"], ["a", " "]]}, "a pair that is not two texts"),
        ({"words": []}, "does not say how a text shows it"),
        ({"words": ["*"]}, "does not say how a text shows it"),
        ({"words_per_sentence": [1.0, 2.0]}, "does not say how a text shows it"),
        ({"words": [], "words_per_sentence": [3.0, 2.0]}, r"words_per_sentence is \[3.0, 2.0\]"),
        ({"words": [], "words_per_sentence": [3.0]}, r"words_per_sentence is \[3.0\]"),
        ({"kind": "smell"}, "kind"),
        ({"words": "happy"}, "words"),
        ({"mood": 1}, "mood"),
    ],
)
def test_files_that_are_no_concept_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(FileFormatError, match=message):
        concept(path)


def test_own_concepts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps(GOOD))
    found = concept(path)
    assert isinstance(found, Concept)
    assert (found.name, found.opposite, next(iter(found.pairs))) == ("grumpy", None, tuple(GOOD["pairs"][0]))
    assert {f.name for f in dataclasses.fields(ConceptFile)} == set(GOOD)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no concept 'grumpy'"):
        concept("grumpy")
    with pytest.raises(DataError, match=r"absent\.json"):
        concept(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(FileFormatError, match="is not valid JSON"):
        concept(tmp_path / "broken.json")
