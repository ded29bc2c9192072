"""Pairs of personas and suffixes: what differs is the prefix alone."""

from __future__ import annotations

import pytest

from mechsteer.errors import DataError
from mechsteer.prompts import persona_pairs

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
