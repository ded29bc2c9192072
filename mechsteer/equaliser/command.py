"""The command `mechsteer mix`: its words read, and done."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mechsteer.equaliser.mix_page import page
from mechsteer.equaliser.mixing import Mix, mix
from mechsteer.equaliser.terminal import LiveBars, bar_lines
from mechsteer.errors import ConfigError, closest
from mechsteer.models import load_model
from mechsteer.report.escaping import visible
from mechsteer.report.tables import column
from mechsteer.steering import atoms_of, gain_presets, load_steering, mixed, read_steering, save_gain_preset, save_mixed
from mechsteer.steering.gain_files import require_preset_name
from mechsteer.steering.interventions import Steering
from mechsteer.steering.mixing import BUILT_IN, Atoms


@dataclass(frozen=True, kw_only=True)
class MixCommand:
    """What the words of the command line ask for."""

    file: str
    model: str = "pocket"
    text: str | None = None
    gains: list[float] | dict[int, float] | None = None
    preset: str | None = None
    save_preset: str | None = None
    out: str | None = None
    page: str = "mix.html"
    max_new_tokens: int = 40

    @classmethod
    def of(cls, words: Sequence[str]) -> MixCommand:
        """Raises ConfigError for a missing file, unknown keys, and values that cannot be."""
        given: dict[str, str] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                key, value = "file", word
            elif key not in _KEYS:
                near = closest(key, _KEYS)
                raise ConfigError(f"mix has no key {key!r}", f"the nearest are {near}" if near else _MORE)
            if key in given:
                hint = f"in quotes, which a shell leaves alone: {key}='{{3:0,5:2}}'" if key == "gains" else _MORE
                raise ConfigError(f"{key} is given twice: {given[key]!r} and {value!r}", hint)
            if not value or value.startswith("--"):
                raise ConfigError(f"{key} is {value!r}", _MORE)
            given[key] = value
        if "file" not in given:
            raise ConfigError("mix takes a steering file", "mechsteer mix FILE; mechsteer mix --help tells more")
        gains, most = given.pop("gains", None), given.pop("max_new_tokens", None)
        found = cls(
            **given,
            gains=None if gains is None else gains_of(gains),
            max_new_tokens=cls.max_new_tokens if most is None else _whole("max_new_tokens", most),
        )
        if found.preset is not None and isinstance(found.gains, list):
            raise ConfigError("both a preset and all gains are given", "give one; gains={3:0} goes over a preset")
        if found.save_preset is not None:
            require_preset_name(found.save_preset)
        if found.out is not None and not found.out.endswith(".safetensors"):
            raise ConfigError(f"out is {found.out!r}", "name a file that ends in .safetensors")
        return found


_KEYS = tuple(key for key in MixCommand.__dataclass_fields__ if key != "file")
_MORE = "mechsteer mix --help tells more"
_GAINS = "write gains=[1,0,0.5], one per atom, or gains={3:0} for single ones"


def gains_of(text: str) -> list[float] | dict[int, float]:
    """Gains as they are written: [1,0.5] or {3:0}, with their brackets or without. Raises ConfigError for anything else.

    >>> gains_of("[1, 0.5]"), gains_of("{3: 0}")
    ([1.0, 0.5], {3: 0.0})
    """
    inner = text.strip()
    for opening, closing in ("[]", "{}"):
        if inner.startswith(opening) != inner.endswith(closing):
            raise ConfigError(f"gains is {text!r:.80}", _GAINS)
    parts = [part.strip() for part in inner.strip("[]{}").split(",")]
    try:
        if ":" not in inner and not inner.startswith("{"):
            return [float(part) for part in parts]
        pairs = [part.split(":") for part in parts]
        return {int(atom): float(gain) for atom, gain in pairs}
    except ValueError as error:
        raise ConfigError(f"gains is {text!r:.80}", _GAINS) from error


def _whole(key: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{key} is {text!r:.80}", f"give a whole number from 1 on, such as {key}=40")
    return int(text)


def mix_command(words: Sequence[str], live: TextIO | None = None) -> str:
    """Do what the words ask for; returns what is to be printed. `live`: a terminal, which is drawn on meanwhile.

    Nothing is written before everything has been computed. Raises MechsteerError.
    """
    asked = MixCommand.of(words)
    wanted = _wanted(asked, read_steering(asked.file))
    atoms = atoms_of(wanted)
    told = []
    if asked.text is None:
        told.append(table(atoms, gain_presets(asked.file)))
    else:
        model = load_model(asked.model)
        steering = _wanted(asked, load_steering(asked.file, model))
        drawing = contextlib.nullcontext() if live is None else LiveBars(live, [atom.name for atom in atoms.atoms])
        with drawing as drawn:
            result = mix(model, steering, asked.text, max_new_tokens=asked.max_new_tokens, on_weights=drawn)
        command = shlex.join(["mechsteer", "mix", *words])
        path = page(result, file=Path(asked.file).name, command=command).save_html(asked.page)
        told += [texts(result), f"page: {path}"]
    if asked.save_preset is not None:
        told.append(f"preset {asked.save_preset}: {save_gain_preset(asked.file, asked.save_preset, atoms.gains)}")
    if asked.out is not None:
        told.append(f"steering: {save_mixed(asked.file, asked.out, atoms.gains)}")
    return "\n".join(told)


def _wanted(asked: MixCommand, steering: Steering) -> Steering:
    """The steering of the file with the gains that are asked for."""
    if asked.preset is not None:
        steering = mixed(steering, asked.preset, presets=gain_presets(asked.file))
    return steering if asked.gains is None else mixed(steering, asked.gains)


def table(atoms: Atoms, presets: dict[str, tuple[float, ...]]) -> str:
    """Atoms, gains and presets for a terminal."""
    rows = atoms.atoms
    cells = [
        ["atom", *(visible(a.name.removeprefix("atom ")) for a in rows)],
        ["writes", *(a.sites for a in rows)],
        ["gain", *column([a.gain for a in rows])],
        ["norm", *column([a.norm for a in rows])],
    ]
    widths = [max(map(len, each)) for each in cells]
    lines = [
        "  ".join(f"{text:{w}}" for text, w in zip(row, widths, strict=True)).rstrip()
        for row in zip(*cells, strict=True)
    ]
    named = {**{name: (gain,) * len(rows) for name, gain in BUILT_IN.items()}, **presets}
    lines += ["", "presets:"]
    return "\n".join(
        [*lines, *(f"  {visible(name)}: [{', '.join(f'{g:g}' for g in gains)}]" for name, gains in named.items())]
    )


def texts(result: Mix) -> str:
    """Three texts and the mean weights for a terminal."""
    parts = []
    for name, text in (("base", result.base), ("trained", result.trained), ("mixed", result.mixed)):
        parts.append(f"{name}:{visible(text) if text.strip() else ' (nothing)'}")
    names = [f"{a.name} × {a.gain:g}" for a in result.weights.atoms]
    return "\n".join([*parts, "", "mean weight, × gain:", *bar_lines(names, result.weights.means().tolist())])
