"""Steering files: safetensors with everything needed to apply them again, bit-equal, to the same model only.

The header holds format version, model fingerprint, sites, scopes, coefficients and each adapter's constructor
arguments; no pickle is read or written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mechsteer.adapters import ADAPTERS
from mechsteer.errors import ConfigError, FileFormatError
from mechsteer.files import write_atomically
from mechsteer.models import backend_of, model_fingerprint, require_fingerprint
from mechsteer.models.sites import Site
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.interventions import Intervention, Interventions, Steering, flatten

FORMAT_VERSION = 1
_NAMES = {cls: name for name, cls in ADAPTERS.items()}


def save_steering(
    steering: Interventions, path: str | Path, model: Any, *, provenance: Mapping[str, Any] | None = None
) -> Path:
    """Write interventions with the fingerprint of `model`; returns the path.

    `provenance` (JSON-able: data hashes, metrics, licence, ...) is kept in the header. The file appears whole
    or not at all. Raises StorageError when the disk refuses, UnknownSiteError for sites the model lacks.
    """
    steering = steering if isinstance(steering, Steering) else Steering(flatten(steering))
    tensors, entries, index = {}, [], {}
    for iv in steering.interventions:
        located = iv.at(model)
        if type(iv.adapter) not in _NAMES:
            raise ConfigError(
                f"{type(iv.adapter).__name__} is not a registered adapter",
                f"add it to mechsteer.adapters.ADAPTERS: {list(ADAPTERS)}",
            )
        shared = index.setdefault(id(iv.adapter), len(index))  # one adapter at two sites is saved, and loaded, once
        for name, tensor in iv.adapter.state_dict().items():
            tensors[f"{shared}.{name}"] = tensor.detach().cpu().contiguous()
        entries.append(
            {
                "adapter": _NAMES[type(iv.adapter)],
                "config": iv.adapter.config(),
                "tensors": shared,
                "site": located.site.to_dict(),
                "read": None if located.read is None else located.read.to_dict(),
                "scope": iv.scope.to_dict(),
                "coeff": iv.coeff,
            }
        )
    header = {
        "format_version": FORMAT_VERSION,
        "model_fingerprint": model_fingerprint(model),
        "model_name": _name(model),
        "backend": backend_of(model).kind,
        "d_model": model.cfg.d_model,
        "coeff": steering.coeff,
        "interventions": entries,
        "provenance": dict(provenance or {}),
    }
    # sorted keys: the same steering gives the same bytes
    return write_atomically(path, save(tensors, metadata={"mechsteer": json.dumps(header, sort_keys=True)}))


def _name(model: Any) -> str:
    """The model's name for readers (the fingerprint is what counts): of a local folder only its last part."""
    name = str(getattr(model.cfg, "model_name", ""))
    return Path(name).name if Path(name).is_absolute() else name


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a steering file. Raises FileFormatError for a missing, truncated or foreign file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise FileFormatError(f"no steering file at {path}", "check the path") from error
    except (SafetensorError, OSError) as error:
        raise FileFormatError(
            f"{path} is truncated or no safetensors file ({error})", "copy or train it again"
        ) from error
    if "mechsteer" not in metadata:
        raise FileFormatError(
            f"{path} is a safetensors file, but not one of mechsteer's steering files",
            "save it with mechsteer.save_steering",
        )
    try:
        header = json.loads(metadata["mechsteer"])
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"the header of {path} is corrupt", "copy or train it again") from error
    if not isinstance(header, dict):
        raise FileFormatError(f"the header of {path} is a {type(header).__name__}", "copy or train it again")
    if header.get("format_version") != FORMAT_VERSION:
        raise FileFormatError(
            f"{path} has format version {header.get('format_version')}, this mechsteer reads {FORMAT_VERSION}",
            "update mechsteer",
        )
    return header


def load_steering(path: str | Path, model: Any) -> Steering:
    """Read a steering file for `model`; logits under it are bit-equal to those before it was saved.

    Raises ModelMismatchError (naming both fingerprints) for another model, FileFormatError for a truncated,
    corrupt or foreign file or an unknown version.
    """
    header = read_header(path)
    require_fingerprint(model, header["model_fingerprint"], str(path))
    device = backend_of(model).device
    tensors: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(str(path), framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  # not a dict
            number, _, name = key.partition(".")
            tensors.setdefault(int(number), {})[name] = file.get_tensor(key)
    adapters: dict[int, Any] = {}
    interventions = []
    for entry in header["interventions"]:
        if entry["adapter"] not in ADAPTERS:
            raise FileFormatError(
                f"{path} needs the adapter {entry['adapter']!r}, which this mechsteer does not have", "update mechsteer"
            )
        number = entry["tensors"]
        if number not in adapters:
            adapter = ADAPTERS[entry["adapter"]].blank(entry["config"])
            adapter.load_state_dict(tensors.get(number, {}), assign=True)
            adapters[number] = adapter.to(device)
        interventions.append(
            Intervention(
                adapters[number],
                Site.from_dict(entry["site"]),
                read=None if entry["read"] is None else Site.from_dict(entry["read"]),
                scope=TokenScope.from_dict(entry["scope"]),
                coeff=entry["coeff"],
            )
        )
    return Steering(interventions, header["coeff"])
