"""Direction files: one vector and its provenance in a safetensors file that knows when it is damaged.

Like a steering file it is of one model: the fingerprint is in the header, as far as it is known. No pickle is read or
written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mechsteer.directions.direction import Direction
from mechsteer.errors import ConfigError, FileFormatError, MechsteerError, NonFiniteError
from mechsteer.files import structured
from mechsteer.files.tensors import read_tensors, write_tensors
from mechsteer.models import model_fingerprint, model_name, require_fingerprint
from mechsteer.models.sites import Site

FORMAT_VERSION = 1
KIND = "direction file"
AGAIN = "copy it again, or make it again: mechsteer.directions.save_direction"


@dataclass(frozen=True, kw_only=True)
class DirectionHeader:
    """What a direction file says beside its vector."""

    format_version: int
    provenance: dict[str, Any]


def save_direction(
    direction: Direction,
    path: str | Path,
    *,
    model: Any = None,
    site: Site | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a direction with its provenance; returns the path. The file appears whole or not at all.

    `model` and `site` are put in the provenance (where `extract` has put them already they must agree), `metadata`
    (JSON-able: data, licence, ...) under its own key.

    Raises ModelMismatchError for a direction of another model, ConfigError for one of another site and for what JSON
    cannot hold, NonFiniteError for NaN or infinity in it, StorageError when the disk refuses.
    """
    if not bool(direction.vector.isfinite().all()):
        raise NonFiniteError(f"the direction {direction.name} holds NaN or infinity", "look at what it was made from")
    provenance = dict(direction.provenance)
    if model is not None:
        if provenance.get("model_fingerprint") is not None:
            require_fingerprint(model, provenance["model_fingerprint"], f"the direction {direction.name}")
        provenance |= {"model": model_name(model), "model_fingerprint": model_fingerprint(model)}
        site = site if site is None else site.at(model)
    if site is not None:
        if direction.site not in (None, site):
            raise ConfigError(
                f"the direction {direction.name} was found at {direction.site}, not {site}", "leave site out"
            )
        provenance["site"] = site.to_dict()
    if metadata:
        provenance["metadata"] = {**provenance.get("metadata", {}), **metadata}
    try:
        provenance = json.loads(json.dumps(provenance))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the provenance holds what JSON cannot: {error}", "use strings, numbers, lists and dicts"
        ) from error
    header = DirectionHeader(format_version=FORMAT_VERSION, provenance=provenance)
    return write_tensors(path, {"vector": direction.vector}, asdict(header), kind=KIND)


def load_direction(path: str | Path, *, model: Any = None) -> Direction:
    """Read what `save_direction` wrote: the vector to the bit, on the CPU, and its provenance.

    Raises ModelMismatchError where `model` is given and the file is of another, FileFormatError for a missing,
    truncated, damaged or foreign file and for an unknown version.
    """
    found = read_tensors(path, kind=KIND, hint=AGAIN)
    if found is None:
        raise FileFormatError(f"no direction file at {path}", "check the path")
    tensors, raw = found
    if raw.get("format_version") != FORMAT_VERSION:
        raise FileFormatError(
            f"{path} has format version {raw.get('format_version')}, this mechsteer reads {FORMAT_VERSION}",
            "update mechsteer",
        )
    header = structured(raw, DirectionHeader, what=f"the header of {path}", hint=AGAIN)
    vector = tensors.get("vector")
    if len(tensors) != 1 or vector is None or not vector.is_floating_point() or not vector.ndim:
        raise FileFormatError(f"{path} holds {sorted(tensors)} where one float vector was written", AGAIN)
    direction = Direction(vector, header.provenance)
    try:
        sane = math.isfinite(direction.norm) and (direction.site is None or bool(str(direction)))
    except (MechsteerError, TypeError, KeyError, ValueError) as error:
        raise FileFormatError(f"{path} names a site that cannot be: {error}", AGAIN) from error
    if not sane:
        raise FileFormatError(f"the vector of {path} holds NaN or infinity", AGAIN)
    if model is not None and header.provenance.get("model_fingerprint") is not None:
        require_fingerprint(model, header.provenance["model_fingerprint"], str(path))
    return direction
