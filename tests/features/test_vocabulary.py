import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mechsteer.errors import ConfigError, DataError
from mechsteer.features import groups_for


def word_tokenizer(words):
    """One token per word, spaces dropped; what it does not know is id 0."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


class Characters:
    """A token per character: every word is a phrase of several tokens, spaces and case count."""

    unk_token_id = None

    def encode(self, text, add_special_tokens):
        assert not add_special_tokens
        return [ord(c) for c in text]


def test_spellings_that_coincide_count_once():
    groups = groups_for(word_tokenizer(["wait", "let", "me", "Let"]))
    assert len(groups) == 10
    assert groups["wait"] == [(1,)]  # "Wait" is unknown, " wait" the same as "wait"
    assert groups["let me"] == [(2, 3), (4, 3)]
    assert groups["hmm"] == []


def test_words_of_several_tokens_are_tuples():
    groups = groups_for(Characters(), "because")
    assert list(groups) == ["reason", "because", "why", "since", "so", "thus"]
    assert groups["so"] == [tuple(map(ord, form)) for form in ("so", "So")]  # " so" ends in "so"


def test_own_words_and_own_ids_from_files(tmp_path):
    tokenizer = word_tokenizer(["aha", "oh"])
    content = {"aha": ["aha", [7, 8]], "ids": [3, [4, 5], 3]}
    for name, text in [("v.json", json.dumps(content)), ("v.yaml", "aha: [aha, [7, 8]]\nids: [3, [4, 5], 3]\n")]:
        (tmp_path / name).write_text(text)
        assert groups_for(tokenizer, tmp_path / name) == {"aha": [(1,), (7, 8)], "ids": [(3,), (4, 5)]}
        assert groups_for(tokenizer, str(tmp_path / name)) == groups_for(tokenizer, content)


def test_refusals(tmp_path):
    tokenizer = word_tokenizer(["a"])
    with pytest.raises(ConfigError, match="reasonin"):
        groups_for(tokenizer, "reasonin")
    with pytest.raises(DataError, match="cannot read"):
        groups_for(tokenizer, tmp_path / "absent.yaml")
    for text, match in [
        ("[1", "not valid"),
        ("", "no groups"),
        ("a: b", "'a'"),
        ("no: [no]", "named list"),
        ("a: []", "group 'a' has no words"),
        ("a: [-1]", "-1"),
    ]:
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(DataError, match=match):
            groups_for(tokenizer, tmp_path / "bad.yaml")


@pytest.mark.parametrize("name", ["v.json", "v.yaml"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 20_000, "nested too deeply"),
        (b'{"a": [' + b"9" * 5000 + b"]}", "4300 digits"),
        (b'{"a":\n ["caf\xe9"]}', "line 2: .*not UTF-8"),
        (b'{"a":\n ["b"', "line 2"),
    ],
    ids=["deep nesting", "huge integer", "not UTF-8", "cut off"],
)
def test_files_that_cannot_be_parsed_are_named_with_a_hint(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(DataError, match=rf"{name}[\s\S]*{message}[\s\S]*hint: "):
        groups_for(word_tokenizer(["a"]), tmp_path / name)
