"""How a settings key is declared, and the keys of a settings dataclass as flat names ("traces.n_dev")."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

_WORDS = ("null", "true", "false", "nan", "inf")  # what Hydra's grammar does not read as strings


def setting(
    default: Any,
    about: str,
    *,
    least: float | None = None,
    choices: tuple[Any, ...] = (),
    each_least: float | None = None,
    not_in_it: tuple[Any, ...] = (),
    contents: bool = False,
    aside: bool = False,
) -> Any:
    """A key: its default, one line about it, and what it may be.

    `least`: the range of a number (finite in any case). `choices`: all it may be. A list holds at least one
    element unless its default is empty; `each_least` is the range of each, `not_in_it` what none may be. `contents`: it may name a file or
    folder, whose contents count as the value does. `aside`: it changes how a run goes and not what comes out.
    """
    what = {"about": about, "least": least, "choices": choices, "each_least": each_least}
    metadata = {**what, "not_in_it": not_in_it, "contents": contents, "aside": aside}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(kind: type, about: str) -> Any:
    """A part of the settings that is a dataclass of its own."""
    return dataclasses.field(default_factory=kind, metadata={"about": about})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """One key: its full name, type, default, and what its field declares."""

    name: str
    type: Any
    default: Any
    declared: Mapping[str, Any]


def keys(kind: type, prefix: str = "") -> Iterator[Key]:
    """Every key of a settings dataclass, sections walked through, in the order they are declared."""
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, of = f"{prefix}{field.name}", types[field.name]
        if dataclasses.is_dataclass(of):
            assert isinstance(of, type)
            yield from keys(of, f"{name}.")
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield Key(name=name, type=of, default=default, declared=field.metadata)


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """{"traces.n_dev": 300, ...} of a settings object."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{prefix}{field.name}"
        values |= flat(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return values


def built(kind: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """The settings object of flat values; every key must be there."""
    types = typing.get_type_hints(kind)
    return kind(
        **{
            field.name: built(types[field.name], values, f"{prefix}{field.name}.")
            if dataclasses.is_dataclass(types[field.name])
            else values[f"{prefix}{field.name}"]
            for field in dataclasses.fields(kind)
        }
    )


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *path, leaf = key.split(".")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[leaf] = value
    return tree


def shown(value: Any) -> str:
    """A value as Hydra's grammar reads it back: plain words as they are, other strings in quotes."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z./][\w./-]*", value) and value.lower() not in _WORDS:
        return value
    if isinstance(value, str):
        # backslashes stand for themselves, unless a quote follows them
        return '"' + re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + (m[2] and '\\"'), value) + '"'
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{shown(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(shown, value)) + "]"
    return json.dumps(value)
