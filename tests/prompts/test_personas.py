"""Pairs of personas and suffixes: what differs is the prefix alone."""

from __future__ import annotations

import json

import pytest
from shared_data import data_file

from mechsteer.errors import DataError
from mechsteer.prompts import persona_pairs, read_pairs

PERSONAS = [("an honest", "a lying"), ("a truthful", "a dishonest")]
SUFFIXES = ["The moon", "I can {see}", "", "The moon", "Two and two"]


def test_every_pair_shares_its_suffix():
    pairs = persona_pairs(PERSONAS, SUFFIXES)
    assert len(pairs) == 6
    assert set(pairs.groups) == {"The moon", "I can {see}", "Two and two"}
    for (positive, negative), suffix in zip(pairs, pairs.groups, strict=True):
        assert (positive, negative) in {
            (f"Pretend you are {a} person. {suffix}", f"Pretend you are {b} person. {suffix}") for a, b in PERSONAS
        }
    drawn = persona_pairs(PERSONAS, SUFFIXES, 3, seed=1)
    assert set(drawn) < set(pairs)
    assert drawn == persona_pairs(PERSONAS, SUFFIXES, 3, seed=1) != persona_pairs(PERSONAS, SUFFIXES, 3, seed=2)
    own = persona_pairs([("love", "hate")], ["; let me"], template="I {persona} cheese{suffix}")
    assert own[0] == ("I love cheese; let me", "I hate cheese; let me")


def test_what_makes_no_pair_is_refused():
    for arguments, options, message in (
        ((PERSONAS, SUFFIXES), {"template": "{suffix}"}, "the template is"),
        ((PERSONAS, SUFFIXES), {"template": "{persona} {suffix}!"}, "the template is"),
        (([("same", "same")], SUFFIXES), {}, "are no two personas"),
        ((["an honest"], SUFFIXES), {}, "are no two personas"),
        ((PERSONAS, SUFFIXES, 7), {}, "7 pairs of 2 personas and 3 suffixes"),
        ((PERSONAS, [""]), {}, "0 pairs"),
    ):
        with pytest.raises(DataError, match=message):
            persona_pairs(*arguments, **options)


def test_a_file_of_suffixes_stands_behind_every_persona(tmp_path):
    """As vgel/repeng keeps them: a list of texts, one of them empty."""
    path = tmp_path / "suffixes.json"
    path.write_text(json.dumps(SUFFIXES))
    assert read_pairs(path, PERSONAS) == persona_pairs(PERSONAS, SUFFIXES)
    path.with_suffix(".txt").write_text("The moon\n\nTwo and two\n")
    told = read_pairs(path.with_suffix(".txt"), PERSONAS[:1], template="[INST] Be {persona} one. [/INST] {suffix}")
    assert told[0][0].startswith("[INST] Be an honest one. [/INST] ")
    assert set(told.groups) == {"The moon", "Two and two"}
    with pytest.raises(DataError, match="holds suffixes, and there are no personas"):
        read_pairs(path)
    path.write_text('["The moon",\n {"text": "The sun"}]')
    with pytest.raises(DataError, match=r"line 2: a suffix is expected as in the first row, this is a dict"):
        read_pairs(path, PERSONAS)
    path.write_text(json.dumps([{"positive": "I love rain", "negative": "I hate rain"}]))
    assert read_pairs(path, PERSONAS)[0] == ("I love rain", "I hate rain")


@pytest.mark.parametrize("name", ["all_truncated_outputs", "code_questions", "reasoning", "true_facts"])
def test_suffixes_of_repeng_are_read(name):
    pairs = read_pairs(data_file(f"repeng/{name}.json"), PERSONAS)
    assert len(pairs) == 2 * len(set(pairs.groups)) > 100
