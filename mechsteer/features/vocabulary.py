"""Groups of reasoning words as token-id tuples.

A group is one word of the vocabulary R in ReasonScore (arXiv 2503.18878); its members are the token sequences
that spell the word: bare, with a leading space, capitalised, and after a line break, which SentencePiece
tokenizers spell differently. A word of several tokens is one tuple and matches only as a whole.

Matching is by token ids, as in the paper: where a tokenizer splits "butter" into "but" + "ter", the first
half matches "but".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mechsteer.errors import ConfigError, DataError, closest
from mechsteer.prompts import read_text
from mechsteer.tokens import continuation_ids

TokenGroups = dict[str, list[tuple[int, ...]]]

_PRESETS = Path(__file__).with_name("vocabularies.yaml")
_HINT = "expected {group: [words, or lists of token ids]}; quote words that YAML reads otherwise, as 'no'"


def presets() -> dict[str, dict[str, list[str]]]:
    """The bundled vocabularies.

    >>> sorted(presets()), len(presets()["reasoning"])
    (['because', 'reasoning'], 10)
    """
    return yaml.safe_load(_PRESETS.read_text(encoding="utf-8"))


def surface_forms(word: str) -> list[str]:
    """The spellings under which `word` is looked up.

    >>> surface_forms("let me")
    ['let me', ' let me', 'Let me', ' Let me']
    """
    cased = dict.fromkeys([word, word[:1].upper() + word[1:]])
    return [space + form for form in cased for space in ("", " ")]


def groups_for(tokenizer: Any, preset: str | Path | Mapping[str, Sequence[Any]] = "reasoning") -> TokenGroups:
    """The token-id tuples of each word group.

    `tokenizer` is any Hugging Face tokenizer, or a model that has one. `preset` is a bundled name ("reasoning", "because"), a YAML or
    JSON file, or a mapping {group: members}; a member is a word or phrase (all its surface forms are
    looked up), a token id, or a list of token ids (taken as it is). Spellings that give the same ids are kept
    once, those that end in another spelling are left to it; spellings that need the unknown token are dropped, and a group left without any stays, empty.

    Raises ConfigError for an unknown name or a model without a tokenizer, DataError for a malformed file.
    """
    found = getattr(tokenizer, "tokenizer", tokenizer)
    if not callable(getattr(found, "encode", None)):
        raise ConfigError(
            f"{type(tokenizer).__name__} has no tokenizer", "pass a model with a tokenizer, or a tokenizer"
        )
    tokenizer = found
    groups: TokenGroups = {}
    for name, members in _read(preset).items():
        tuples: list[tuple[int, ...]] = []
        for member in members:
            tuples += _spellings(tokenizer, member) if isinstance(member, str) else [_ids(name, member)]
        groups[name] = list(dict.fromkeys(tuples))
    return groups


def _read(preset: str | Path | Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
    if isinstance(preset, Mapping):
        return _checked(preset, "the vocabulary")
    bundled = presets()
    if not isinstance(preset, (str, Path)):
        raise ConfigError(f"a vocabulary is {preset!r:.80}", f"{_HINT}, a file, or one of {sorted(bundled)}")
    if preset in bundled:
        return bundled[str(preset)]
    path = Path(preset)
    if path.suffix not in {".yaml", ".yml", ".json"}:
        raise ConfigError(
            f"no vocabulary {str(preset)!r}",
            f"bundled: {sorted(bundled)}, closest {closest(str(preset), bundled)}; a file ends in .yaml or .json",
        )
    text = read_text(path)
    try:
        parsed = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"the vocabulary {path} is not valid {path.suffix[1:]}: {why}", _HINT) from error
    return _checked(parsed, str(path))


def _checked(parsed: Any, source: str) -> Mapping[str, Sequence[Any]]:
    if not isinstance(parsed, Mapping) or not parsed:
        raise DataError(f"{source} has no groups", _HINT)
    for name, members in parsed.items():
        if not isinstance(name, str) or not isinstance(members, Sequence) or isinstance(members, str):
            raise DataError(f"{source}: group {name!r} is not a named list: {members!r}", _HINT)
        if not members:
            raise DataError(f"{source}: group {name!r} has no words", "give it some, or leave the group out")
        for member in members:
            if not isinstance(member, str) or not member.strip():
                _ids(f"{source}: {name}", member)
    return parsed


def _ids(name: str, member: Any) -> tuple[int, ...]:
    ids = tuple(member) if isinstance(member, list | tuple) else (member,)
    if not ids or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
        raise DataError(
            f"{name}: {member!r} is neither a word nor token ids",
            "members are words, token ids, or non-empty lists of token ids",
        )
    return ids


def _spellings(tokenizer: Any, word: str) -> list[tuple[int, ...]]:
    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    found = []
    for form in surface_forms(word):
        found += [encode(form), tuple(continuation_ids(tokenizer, form))]
    unknown = getattr(tokenizer, "unk_token_id", None)
    found = [ids for ids in found if ids and unknown not in ids]
    # SentencePiece spells " but" as a space and "but": matching both would count one word twice
    return [ids for ids in found if not any(ids[i:] in found for i in range(1, len(ids)))]
