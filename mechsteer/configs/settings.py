"""One configuration for every command: configs/study.yaml, a mapping or file over it, Hydra overrides over that."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mechsteer.errors import ConfigError, closest

_CHOICES = {
    "backend": ("bridge", "hooked"),
    "metric": ("auto", "accuracy", "log_odds"),
    "heatmap.show": ("probe", "feature"),
    "sae.architecture": ("topk", "batchtopk", "jumprelu", "standard", "gated", "matryoshka"),
}
_WORDS = ("null", "true", "false", "nan", "inf")  # what Hydra's grammar does not read as strings
_LEAST = {
    **dict.fromkeys(("batch_size", "max_new_tokens", "prompt_tokens"), 1),
    **dict.fromkeys(("traces.n_problems", "traces.n_dev", "traces.n_samples"), 1),
    **dict.fromkeys(("adapter.epochs", "adapter.n_samples", "evaluate.n_problems", "evaluate.n_random"), 1),
    **dict.fromkeys(("sae.d_sae", "sae.k", "sae.n_tokens", "probe.n_boot", "attribute.n_random"), 1),
    **dict.fromkeys(("probe.n_splits", "topology.n_points", "attribute.n_prompts"), 2),
    **dict.fromkeys(("seed", "traces.temperature", "attribute.integrated"), 0),
    **dict.fromkeys(("adapter.lr", "adapter.kl_weight", "adapter.l2_weight"), 0),
}
_LISTS = {"layers": (int, float), "adapter.coeffs": (int, float), "attribute.k": (int,)}


def defaults() -> dict[str, Any]:
    """The bundled configuration as a plain dict."""
    with initialize_config_module("mechsteer.configs", version_base=None):
        return _plain(compose("study"))


def resolve(config: Mapping[str, Any] | str | Path | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The full configuration as a plain dict: the bundled one, `config` over it, `overrides` (key=value) over that.

    Raises ConfigError for an unknown key (naming the nearest), a value of the wrong kind, or a missing file.
    """
    values = dict(_leaves(defaults()))
    known = dict(values)
    for key, value in [*_leaves(_mapping(config), stop=known), *map(_parsed, overrides)]:
        if key not in known:
            raise ConfigError(f"unknown key {key!r}", f"the nearest are {closest(key, known) or sorted(known)}")
        _check_kind(key, value, known[key])
        values[key] = value
    _check_values(values)
    return _nested(values)


def _check_values(values: Mapping[str, Any]) -> None:
    for key, least in _LEAST.items():
        if not least <= values[key] < math.inf:
            raise ConfigError(f"{key} is {values[key]}", f"give at least {least}")
    for key, allowed in _CHOICES.items():
        if values[key] not in allowed:
            raise ConfigError(f"{key} is {values[key]!r}", f"choose one of {list(allowed)}")
    for key, kinds in _LISTS.items():
        if not values[key]:
            raise ConfigError(f"{key} is empty", f"give at least one, such as {key}=[1]")
        if not all(isinstance(x, kinds) and not isinstance(x, bool) and math.isfinite(x) for x in values[key]):
            raise ConfigError(f"{key} is {values[key]}", f"give numbers, such as {key}=[1,2]")
    if min(values["attribute.k"]) < 1:
        raise ConfigError(f"attribute.k is {values['attribute.k']}", "keep at least 1 direction")
    if 0 in values["adapter.coeffs"]:
        raise ConfigError("adapter.coeffs holds 0", "a strength of 0 is the model as it is; leave it out")


def changed(config: Mapping[str, Any]) -> list[str]:
    """The overrides (key=value) that make a full configuration out of the bundled one."""
    before = dict(_leaves(defaults()))
    return [f"{key}={_written(value)}" for key, value in _leaves(config) if value != before[key]]


def _written(value: Any) -> str:
    """A value as Hydra's grammar reads it back: plain words as they are, other strings in quotes."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z./][\w./-]*", value) and value.lower() not in _WORDS:
        return value
    if isinstance(value, str):
        # backslashes stand for themselves, unless a quote follows them
        return '"' + re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + (m[2] and '\\"'), value) + '"'
    return json.dumps(value)


def overlaid(config: Mapping[str, Any] | str | Path | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Settings (a mapping or a file) with others over them, as one flat mapping for `resolve`."""
    return dict(_leaves(_mapping(config))) | dict(_leaves(more))


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *path, leaf = key.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[leaf] = value
    return nested


def _parsed(override: str) -> tuple[str, Any]:
    """(key, value) of key=value, read by Hydra's grammar."""
    hint = "write key=value; quote values with spaces: 'suffix=\" and then\"'"
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ConfigError(f"{override!r} is no setting", hint) from error
    if parsed.type is not OverrideType.CHANGE or parsed.is_sweep_override():
        raise ConfigError(f"{override!r} is no setting of one run", hint)
    return parsed.key_or_group, parsed.value()


def _mapping(config: Mapping[str, Any] | str | Path | None) -> Mapping[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return config
    path = Path(config)
    if not path.is_file():
        raise ConfigError(f"no configuration file at {path}", "give a YAML file with keys of study.yaml")
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {str(error).splitlines()[0]}", "give a YAML file with keys of study.yaml"
        ) from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} holds a {type(loaded).__name__}", "give a YAML file with keys of study.yaml")
    return {str(key): value for key, value in loaded.items()}


def _plain(config: Any) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _leaves(
    values: Mapping[str, Any], prefix: str = "", stop: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and (stop is None or name not in stop):
            yield from _leaves(value, f"{name}.", stop)
        else:
            yield name, value


def _check_kind(key: str, value: Any, default: Any) -> None:
    if default is None:
        return
    number = isinstance(default, (int, float)) and not isinstance(default, bool)
    fits = (
        isinstance(value, (int, float)) and not isinstance(value, bool) if number else isinstance(value, type(default))
    )
    if isinstance(default, int) and isinstance(value, float):
        fits = False
    if not fits:
        raise ConfigError(f"{key} is {value!r}", f"give a {type(default).__name__}, such as {default!r}")
