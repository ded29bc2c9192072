"""Gains in steering files: named ones kept beside the tensors, and a file with others than it was trained with.

Both read the file without its model and leave everything else in it as it is, quantisation included: what is not
concerned is written as it was read. A file appears whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, FileFormatError, MechsteerError
from mechsteer.files.tensors import read_tensors
from mechsteer.steering.files import AGAIN, KIND, read_header, read_steering, write_steering_file
from mechsteer.steering.mixing import BUILT_IN, Gains, atoms_of, mixed, resolved
from mechsteer.steering.quantising import SCALE

_LONGEST = 60


def gain_presets(path: str | Path) -> dict[str, tuple[float, ...]]:
    """Name -> gains [n_atoms] of all atoms, as they are kept in a steering file; `mixed(..., presets=...)` takes them.

    Raises FileFormatError for a file that is none, damaged, or keeps gains that do not fit its atoms.
    """
    kept = read_header(path).gain_presets
    if not kept:
        return {}
    now = atoms_of(read_steering(path)).gains
    for name, gains in kept.items():
        try:
            require_preset_name(name)
            resolved(gains, now, {})
        except MechsteerError as error:
            raise FileFormatError(f"the preset {name!r:.80} of {path} cannot be: {error.message}", AGAIN) from error
    return {name: tuple(gains) for name, gains in kept.items()}


def save_gain_preset(path: str | Path, name: str, gains: Gains) -> Path:
    """Keep gains under a name in a steering file, over those that had it; returns the path.

    `gains` as `mixed` takes them; single ones are over those of the file. Raises ConfigError for a name that every
    steering has ("trained", "off") or that is no word, ShapeError for another number of gains, NonFiniteError,
    FileFormatError and StorageError.
    """
    require_preset_name(name)
    kept = gain_presets(path)
    wanted = resolved(gains, atoms_of(read_steering(path)).gains, kept)
    tensors, header = _as_written(path)
    header["gain_presets"] = {**{key: list(value) for key, value in kept.items()}, name: wanted}
    return write_steering_file(path, tensors, header)


def save_mixed(path: str | Path, out: str | Path, gains: Gains) -> Path:
    """Write the steering of a file with other gains to `out`, which may be the same file; returns its path.

    Gains are kept as they are given, also where the other tensors are quantised. What was measured concerned the old
    gains, and is left out; the provenance tells the new ones. Raises as `mixed` does, FileFormatError and StorageError.
    """
    before = read_steering(path)
    after = mixed(before, gains, presets=gain_presets(path))
    tensors, header = _as_written(path)
    for entry, old, new in zip(header["entries"], before.interventions, after.interventions, strict=True):
        for name, tensor in _changed(old.module, new.module).items():
            key = f"{entry['module']}.{name}"
            tensors.pop(f"{key}{SCALE}", None)
            tensors[key] = tensor
            header["errors"] = [lost for lost in header.get("errors", []) if lost["name"] != key]
    gains_now = atoms_of(after).gains
    if gains_now != atoms_of(before).gains:
        header |= {"metrics": [], "provenance": {**header["provenance"], "gains": list(gains_now)}}
    return write_steering_file(out, tensors, header)


def _changed(old: torch.nn.Module, new: torch.nn.Module) -> dict[str, Tensor]:
    before = old.state_dict()
    return {name: tensor for name, tensor in new.state_dict().items() if not torch.equal(tensor, before[name])}


def _as_written(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, header) of a file that was checked, as they lie in it."""
    found = read_tensors(path, kind=KIND, hint=AGAIN)
    if found is None:
        raise FileFormatError(f"no steering file at {path}", "check the path")
    return found


def require_preset_name(name: str) -> None:
    """Raise ConfigError unless gains may have this name."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _LONGEST:
        raise ConfigError(f"{name!r:.80} is no name of a preset", f"give a word or two, at most {_LONGEST} characters")
    if name in BUILT_IN:
        raise ConfigError(f"every steering has a preset {name!r}", "choose another name")
