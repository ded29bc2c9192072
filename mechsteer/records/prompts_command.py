"""`mechsteer prompts`: prompts out of a data set by column, length, repeats, likeness and chance, as a file for `data=`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mechsteer.errors import ConfigError, closest
from mechsteer.files import write_atomically
from mechsteer.models import load_counter, load_model
from mechsteer.prompts import PromptSet
from mechsteer.records import library
from mechsteer.records.embedders import Embedder, EndpointEmbedder, ResidualEmbedder

_WHOLE = ("min_tokens", "max_tokens", "n", "seed")
_MORE = "mechsteer prompts --help tells more"


@dataclass(frozen=True, kw_only=True)
class PromptsCommand:
    """What the words of the command line ask for."""

    source: str
    out: str
    text: str = "text"
    group: str | None = None
    label: str | None = None
    model: str = "pocket"
    min_tokens: int = 1
    max_tokens: int | None = None
    n: int | None = None
    seed: int = 0
    like: str | None = None
    """a file of prompts, or one prompt"""
    endpoint: str | None = None
    """of embeddings: KIND,MODEL,URL"""
    index: str | None = None
    database: str = "embedded"
    folder: str | None = None

    @classmethod
    def of(cls, words: Sequence[str]) -> PromptsCommand:
        """Raises ConfigError for what is missing, unknown keys, and values that cannot be."""
        given: dict[str, Any] = {}
        known = [key for key in cls.__dataclass_fields__ if key != "source"]
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or (key not in known and Path(word).exists()):
                key, value = "source", word
            elif key not in known:
                near = closest(key, known)
                raise ConfigError(f"prompts has no key {key!r}", f"the nearest are {near}" if near else _MORE)
            if not value or value.startswith("--") or key in given:
                raise ConfigError(f"{key} is {value!r}" if key not in given else f"{key} is given twice", _MORE)
            given[key] = _number(key, value) if key in _WHOLE else value
        for key in ("source", "out"):
            if key not in given:
                raise ConfigError(f"no {key} is given", "mechsteer prompts SOURCE out=FILE.jsonl")
        if not given["out"].endswith(".jsonl"):
            raise ConfigError(f"out is {given['out']!r}", "name a file that ends in .jsonl")
        return cls(**given)


def prompts_command(words: Sequence[str]) -> str:
    """Choose prompts and write them; returns what is to be printed. Raises what reading and embedding them raise."""
    how = PromptsCommand.of(words)
    whole = PromptSet.read(how.source, how.text, group=how.group, label=how.label)
    prompts = whole.dedupe()
    told = [f"{len(whole)} prompts, {len(prompts)} of them different"]
    model = load_model(how.model) if how.like is not None and how.endpoint is None else None
    if how.min_tokens > 1 or how.max_tokens is not None:
        prompts = prompts.of_length(model or load_counter(how.model), how.min_tokens, how.max_tokens)
        told.append(f"{len(prompts)} of them of such a length")
    if how.like is not None:
        prompts = _like(how, prompts, model)
        told.append(f"{len(prompts)} of them most like {how.like!r}")
    elif how.n is not None:
        prompts = prompts.sample(how.n, how.seed)
        told.append(f"{len(prompts)} of them drawn with seed {how.seed}")
    labels = prompts.labels or [None] * len(prompts)
    rows = [
        {"text": text, "group": group} | ({} if label is None else {"label": label})
        for text, group, label in zip(prompts.texts, prompts.groups, labels, strict=True)
    ]
    write_atomically(how.out, "".join(json.dumps(row, default=str) + "\n" for row in rows))
    return "\n".join([*told, f"prompts: {how.out}", f"next: mechsteer study data={shlex.quote(how.out)}"])


def _like(how: PromptsCommand, prompts: PromptSet, model: Any) -> PromptSet:
    if how.n is None:
        raise ConfigError("like= without n=", "say how many prompts are wanted: n=200")
    assert how.like is not None
    these = PromptSet.read(how.like, how.text) if Path(how.like).is_file() else PromptSet([how.like])
    embedder = _embedder(how, model)
    with library.open_database(how.database, folder=how.folder) as database:
        # an index of its own for each embedder, so that they do not stand in each other's way
        index = library.PromptIndex(database, how.index or f"prompts by {embedder.name}", embedder)
        return index.select(prompts, these, how.n)


def _embedder(how: PromptsCommand, model: Any) -> Embedder:
    if how.endpoint is None:
        return ResidualEmbedder(model)
    kind, _, rest = how.endpoint.partition(",")
    name, _, url = rest.partition(",")
    if not url:
        raise ConfigError(
            f"endpoint is {how.endpoint!r}", "give endpoint=ollama,nomic-embed-text,http://localhost:11434"
        )
    return EndpointEmbedder(url=url, model=name, kind=cast("Literal['openai', 'ollama']", kind))


def _number(key: str, value: str) -> int:
    try:
        found = int(value)
    except ValueError as error:
        raise ConfigError(f"{key} is {value!r}", "give a whole number") from error
    if found < 0:
        raise ConfigError(f"{key} is {found}", "give at least 0")
    return found
