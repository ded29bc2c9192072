"""Damaged files of every kind: an error of ours, or what was saved. `python scripts/fuzz.py` does 10,000 of each."""

from __future__ import annotations

import random
from unittest import mock

import damage
import mutations
import pytest

from mechsteer.activations import shards
from mechsteer.files import records, tensors

N = {"capture": 60}  # slower: it runs the model


@pytest.mark.parametrize("name", damage.CASES)
def test_damage_is_refused_or_without_effect(name, tmp_path):
    counts = damage.counted(name, tmp_path / name, N.get(name, 300), seed=1)
    assert counts.traceback == 0, counts.examples
    if not name.startswith("foreign-sae"):  # which carries no digest
        assert counts.wrong == 0, counts.examples
    assert counts.refused > 0 or name == "capture"  # which makes anew what is damaged
    assert counts.refused + counts.equal + counts.wrong == N.get(name, 300)


@pytest.mark.parametrize("name", ["steering", "steering-int8", "store", "records", "sae", "direction"])
def test_what_was_changed_on_purpose_breaks_nothing(name, tmp_path):
    """With digests that fit, what a file says is what it says; it is refused by its schema or is read."""
    folder = tmp_path / name
    folder.mkdir()
    seen = list(damage.outcomes(damage.CASES[name](folder), 200, 1, damage.forged))
    assert [example for what, example in seen if what == "traceback"] == []
    assert "wrong" in dict(seen) or name == "store"  # whose shards know their manifest


class Anything(str):
    """A digest that every other equals."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False


@pytest.mark.parametrize("name", ["steering", "store", "records", "sae", "checkpoint"])
def test_without_the_digests_damage_would_load(name, tmp_path, monkeypatch):
    for module, function in (
        (records, "digest_of"),
        (tensors, "_digest"),
        (shards, "tensor_digest"),
        (shards, "table_digest"),
    ):
        monkeypatch.setattr(module, function, lambda *args: Anything("0" * 32))
    monkeypatch.setattr(shards, "bytes_digest", lambda pieces: [mock.ANY for _ in [*pieces, None]][-1])
    assert damage.counted(name, tmp_path / name, 100, seed=1).wrong > 0


def test_mutations_are_a_function_of_the_seed_and_change_something():
    data = b'{"a": [1, 2.5, "text"], "b": {"c": null, "d": true}}' * 3
    for edit in mutations.EDITS[:-2]:
        assert edit(random.Random(3), data) == edit(random.Random(3), data)
    text = b'{"a": [1, 2.5, "text"], "b": {"c": null, "d": true}}'
    seen = {mutations.mutated(random.Random(i), text) for i in range(200)}
    assert text not in seen
    assert len(seen) > 150
