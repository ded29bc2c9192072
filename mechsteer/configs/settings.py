"""Settings as one typed object: defaults, a preset, a mapping or file over it, `key=value` overrides over that."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mechsteer.configs.fields import Key, built, flat, keys, nested, shown
from mechsteer.configs.schema import Settings
from mechsteer.errors import ConfigError, closest

PRESETS = Path(__file__).parent / "presets"
KEYS = {key.name: key for key in keys(Settings)}
SOURCES = ("preset", "config")  # where settings come from; no settings themselves
_HINT = "write key=value; in quotes where the value is a list of words or the like: 'suffix=\" and then\"'"


def defaults() -> Settings:
    """The settings where nothing is given."""
    return Settings()


def resolve(
    config: Mapping[str, Any] | str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    base: Settings | None = None,
) -> Settings:
    """All settings: `base` (the defaults), `config` over it, `overrides` (key=value) over that.

    Raises ConfigError for an unknown key (naming the nearest), a value of the wrong kind or out of range, or a
    missing file.
    """
    return over(explicit(config, overrides), base)


def over(given: Mapping[str, Any], base: Settings | None = None) -> Settings:
    """The settings `base` (the defaults) with given ones, as `explicit` makes them, over it."""
    return built(Settings, flat(base or Settings()) | dict(given))


def explicit(
    config: Mapping[str, Any] | str | Path | None = None, overrides: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    """What is given explicitly, checked, as {"traces.n_dev": 300, ...}: a preset, `config` over it, the rest over that.

    Of a key that holds a mapping single entries may be given, `adapter.args.rank=4`.
    `config` and `overrides` may name a `preset` (bundled, or a file of one's own), `overrides` also a `config` file.
    """
    pairs = [_parsed(override) for override in overrides] + list(_leaves(more))
    sources = {key: value for key, value in pairs if key in SOURCES}
    if "config" in sources and config is not None:
        raise ConfigError("two configurations are given", "give one")
    below = dict(_leaves(_mapping(sources.get("config", config))))
    preset = sources.get("preset", below.pop("preset", None))
    if preset is not None:
        below = dict(_leaves(_preset(preset))) | below
    found: dict[str, Any] = {}
    for key, value in [*below.items(), *((key, value) for key, value in pairs if key not in SOURCES)]:
        whole, _, part = key.rpartition(".")
        if key not in KEYS and whole in KEYS and typing.get_origin(KEYS[whole].type) is dict:
            found[whole] = checked(whole, found.get(whole, {}) | {part: value})  # adapter.args.rank=4
        else:
            found[key] = checked(key, value)
    return found


def checked(key: str, value: Any) -> Any:
    """`value` as its key wants it. Raises ConfigError for an unknown key, and a value of the wrong kind or range."""
    if key not in KEYS:
        sections = sorted({name.partition(".")[0] for name in KEYS if "." in name})
        if key in sections:
            raise ConfigError(
                f"{key} is a section, not one key", f"give {[k for k in KEYS if k.startswith(f'{key}.')]}"
            )
        near = closest(key, KEYS)
        hint = f"the nearest are {near}" if near else "`mechsteer study --help` lists all"
        raise ConfigError(f"unknown key {key!r}", hint)
    declared = KEYS[key].declared
    value = _of_kind(KEYS[key], value)
    if value is None:
        return None
    if declared["choices"] and value not in declared["choices"]:
        raise ConfigError(f"{key} is {value!r}", f"choose one of {list(declared['choices'])}")
    if isinstance(value, (int, float)):
        _check_range(value, declared["least"], f"{key} is {value}")
    if isinstance(value, list):
        if not value and KEYS[key].default:
            raise ConfigError(f"{key} is empty", f"give at least one, such as {key}={json.dumps(KEYS[key].default)}")
        for x in value:
            if isinstance(x, (int, float)):
                _check_range(x, declared["each_least"], f"{key} is {value}")
            if x in declared["not_in_it"]:
                raise ConfigError(f"{key} holds {x}", "leave it out")
    return value


def apart(overrides: Sequence[str], names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(values of `names`, which are no settings; all that is given else, as `explicit` has it), of overrides and the
    configuration file among them.

    A list may be written with its brackets or without: models=[a,b], models=a,b. Raises ConfigError.
    """
    own, rest, config = {}, [], None
    for text in overrides:
        key = text.partition("=")[0]
        if key in names:
            own[key] = _several(text)
        elif key == "config":
            config = text.partition("=")[2]
        else:
            rest.append(text)
    below = dict(_mapping(config))
    told = {name: below.pop(name) for name in names if name in below}
    return told | own, explicit(below, rest)


def _several(override: str) -> Any:
    """The value of an override that may be a list without brackets."""
    parsed = _grammar(override)
    if parsed is None:
        raise ConfigError(f"{override!r} cannot be read", "write key=[a,b]; in quotes what holds odd characters")
    if parsed.is_sweep_override():
        return [value.strip("\"'") for value in parsed.sweep_string_iterator()]
    return parsed.value()


def cells(overrides: Sequence[str], *, one_by_one: bool = False) -> list[tuple[dict[str, str], list[str]]]:
    """The runs of a sweep: ({swept key: its value as written}, overrides of one run), the last key fastest.

    `key=a,b,c` and `key=range(1,4)` are swept; lists keep their brackets: `layers=[1],[2]`. `one_by_one`: not all
    combinations, but the first value of every key, and every other value with the first ones of the other keys; each with
    every seed. Raises ConfigError where nothing is swept.
    """
    columns: list[list[str]] = []
    swept: list[str] = []
    for text in overrides:
        parsed = _grammar(text)
        if parsed is not None and parsed.is_sweep_override():
            try:
                values = list(parsed.sweep_string_iterator())
            except HydraException as error:
                raise ConfigError(f"{text!r} cannot be swept", "list the values: key=a,b,c") from error
            swept.append(parsed.key_or_group)
            columns.append([f"{parsed.key_or_group}={value}" for value in values])
        else:
            columns.append([text])
    if not swept:
        raise ConfigError("--multirun without a key of several values", "give them with commas: seed=0,1,2")
    for name in swept:
        if name == "out":
            raise ConfigError("out is one folder, which gets one folder per run", "give one")
    return [
        ({key: text.partition("=")[2] for text in cell if (key := text.partition("=")[0]) in swept}, list(cell))
        for cell in (_one_by_one(columns) if one_by_one else itertools.product(*columns))
    ]


def _one_by_one(columns: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """The first of each column; then, column by column, every other one. Those of the key seed are crossed with all."""
    seeds = [list(column) if column[0].startswith("seed=") else [column[0]] for column in columns]
    yield from itertools.product(*seeds)
    for i, column in enumerate(columns):
        if not column[0].startswith("seed="):
            for other in column[1:]:
                yield from itertools.product(*seeds[:i], [other], *seeds[i + 1 :])


def changed(settings: Settings, base: Settings | None = None) -> list[str]:
    """The overrides (key=value) that make these settings out of `base` (the defaults)."""
    before = flat(base or Settings())
    return [f"{key}={shown(value)}" for key, value in flat(settings).items() if value != before[key]]


def as_tree(settings: Settings) -> dict[str, Any]:
    """The settings as nested plain data, for a file."""
    return nested(flat(settings))


def presets() -> list[str]:
    """The bundled presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _check_range(value: float, least: float | None, told: str) -> None:
    if not math.isfinite(value) or (least is not None and value < least):
        raise ConfigError(told, f"give {'a finite number' if least is None else f'at least {least}'}")


def _of_kind(key: Key, value: Any) -> Any:
    """The value as OmegaConf converts it to the declared type; strings stand for themselves, ${...} included."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, tuple):
        value = list(value)
    text_wanted = _is_text(key.type)
    if isinstance(value, str) and text_wanted:
        return _path(key, value) if key.declared["contents"] or key.name == "out" else value
    wrong = ConfigError(f"{key.name} is {value!r}", f"give {_allowed(key)}, such as {key.name}={shown(key.default)}")
    if (text_wanted and value is not None) or (isinstance(value, str) and ("${" in value or value == "???")):
        raise wrong
    wrapped = OmegaConf.structured(dataclasses.make_dataclass("Wrapped", [("value", key.type, dataclasses.MISSING)]))
    try:
        OmegaConf.update(wrapped, "value", value)
        result = OmegaConf.to_container(wrapped)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise wrong from error
    assert isinstance(result, dict)
    return result["value"]


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


def _allowed(key: Key) -> str:
    """What a key may be, in words."""
    if key.declared["choices"]:
        return f"one of {list(key.declared['choices'])}"
    kinds = list(
        dict.fromkeys(
            _WORDS.get(kind, "a mapping" if typing.get_origin(kind) is dict else "a list") for kind in _kinds(key.type)
        )
    )
    least = key.declared["least"]
    return " or ".join(kinds) + ("" if least is None else f" of at least {least:g}")


def _path(key: Key, value: str) -> str:
    """A path with the home folder in it; not every shell puts that in. An empty one would be the current folder."""
    if not value.strip() or "\0" in value:
        raise ConfigError(f"{key.name} is {value!r}", f"give a path, such as {key.name}={shown(key.default or 'mine')}")
    return str(Path(value).expanduser()) if value.startswith("~") else value


def _kinds(of: Any) -> list[Any]:
    return [of] if typing.get_origin(of) in (list, dict) else list(typing.get_args(of)) or [of]


def _is_text(of: Any) -> bool:
    return str in _kinds(of)


def _grammar(override: str) -> Override | None:
    """What Hydra makes of key=value; None where its grammar does not read it."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def _parsed(override: str) -> tuple[str, Any]:
    """(key, value) of key=value. Text that is none of Hydra's grammar (commas, colons, apostrophes) is taken as it is."""
    key, equals, text = override.partition("=")
    if not key:
        raise ConfigError(f"{override!r} is no setting", _HINT)
    parsed = _grammar(override)
    is_text = key in SOURCES or (key in KEYS and _is_text(KEYS[key].type))
    if parsed is None or parsed.is_sweep_override():
        if equals and is_text:
            return key, text
        if parsed is not None and parsed.is_sweep_override():
            raise ConfigError(f"{override!r} is no setting of one run", "run several with --multirun")
        if equals and re.fullmatch(r"[\w.]+", key):
            checked(key, text)  # an unknown key, a number where none is
        raise ConfigError(f"{override!r} is no setting", _HINT)
    if parsed.type is not OverrideType.CHANGE:
        raise ConfigError(f"{override!r} is no setting of one run", _HINT)
    value = parsed.value()
    if is_text and not isinstance(value, str) and value is not None:
        return key, text
    return parsed.key_or_group, value


def _preset(name: Any, above: tuple[Path, ...] = ()) -> Mapping[str, Any]:
    """The keys of a preset: a bundled one by name, or a file of one's own, over the one that it names itself."""
    path = Path(str(name))
    if (bundled := PRESETS / f"{name}.yaml").is_file() and path.suffix == "":
        path = bundled
    if not path.is_file():
        raise ConfigError(f"no preset {str(name)!r}", f"bundled are {presets()}; or give the path of a YAML file")
    if path in above:
        raise ConfigError(f"the preset {str(name)!r} stands on itself", "take its own `preset` out")
    own = dict(_leaves(_mapping(path)))
    below = own.pop("preset", None)
    return own if below is None else {**dict(_leaves(_preset(below, (*above, path)))), **own}


def _mapping(config: Mapping[str, Any] | str | Path | None) -> Mapping[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Settings):
        return flat(config)
    if isinstance(config, Mapping):
        return config
    path, hint = Path(config), "give a YAML file with keys of `mechsteer study --help`"
    if not path.is_file():
        raise ConfigError(f"no configuration file at {path}", hint)
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {str(error).splitlines()[0]}", hint) from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} holds a {type(loaded).__name__}", hint)
    return {str(key): value for key, value in loaded.items()}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in KEYS:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value
