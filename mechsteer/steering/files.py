"""Steering files: safetensors with everything needed to apply them again, bit-equal, to the same model only.

The header holds format version, model fingerprint, sites, scopes, coefficients and each adapter's name and constructor
arguments, under a digest over it and the tensors (see `mechsteer.files.tensors`). A file names what was
registered (`mechsteer.adapters.register`) and never imports it; no pickle is read or written.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mechsteer.adapters import ADAPTERS, Adapter, name_of
from mechsteer.errors import ConfigError, FileFormatError, MechsteerError, closest
from mechsteer.files import structured
from mechsteer.files.tensors import read_tensors, write_tensors
from mechsteer.models import backend_of, model_fingerprint, require_fingerprint
from mechsteer.models.sites import Site
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.interventions import Intervention, Interventions, Steering, flatten

FORMAT_VERSION = 2
KIND = "steering file"
AGAIN = "copy it again, or make it again: train, then mechsteer.save_steering"
# what a class can raise that is built from a header of any content, its own checks included
_UNBUILDABLE = (
    *(MechsteerError, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError),
    *(RuntimeError, TypeError, ValueError),
)


@dataclass(frozen=True, kw_only=True)
class SavedSite:
    """A site of the model that the file is of."""

    layer: int
    point: str


@dataclass(frozen=True, kw_only=True)
class SavedEntry:
    """One intervention. Entries with the same `module` number share one adapter, whose tensors carry that number."""

    kind: Literal["intervention"]
    name: str  # what the adapter is registered as
    config: dict[str, Any]  # what its `blank` is given
    module: int
    site: SavedSite  # that it writes
    reads: list[SavedSite]  # empty: the site that it writes
    scope: dict[str, Any]
    coeff: float


@dataclass(frozen=True, kw_only=True)
class SteeringHeader:
    """What a steering file says beside its tensors."""

    format_version: int
    model_fingerprint: str
    model_name: str
    backend: str
    d_model: int
    coeff: float
    entries: list[SavedEntry]
    provenance: dict[str, Any]


def save_steering(
    steering: Interventions, path: str | Path, model: Any, *, provenance: Mapping[str, Any] | None = None
) -> Path:
    """Write interventions with the fingerprint of `model`; returns the path.

    `provenance` (JSON-able: data hashes, metrics, licence, ...) is kept in the header. The file appears whole
    or not at all. Raises StorageError when the disk refuses, UnknownSiteError for sites the model lacks, ConfigError
    for adapters that are not registered, for observations (they stand beside a steering) and for what JSON cannot hold.
    """
    steering = steering if isinstance(steering, Steering) else Steering(flatten(steering))
    tensors: dict[str, Tensor] = {}
    entries: list[SavedEntry] = []
    index: dict[int, int] = {}
    for iv in steering.interventions:
        number = index.setdefault(id(iv.adapter), len(index))  # one adapter at two sites is saved, and loaded, once
        tensors |= {f"{number}.{name}": tensor for name, tensor in iv.adapter.state_dict().items()}
        entries.append(_entry(iv.at(model), number))
    header = SteeringHeader(
        format_version=FORMAT_VERSION,
        model_fingerprint=model_fingerprint(model),
        model_name=_name(model),
        backend=backend_of(model).kind,
        d_model=model.cfg.d_model,
        coeff=steering.coeff,
        entries=entries,
        provenance=_plain(dict(provenance or {}), "provenance"),
    )
    return write_tensors(path, tensors, dataclasses.asdict(header), kind=KIND)


def _entry(iv: Intervention, number: int) -> SavedEntry:
    """Of an intervention whose sites are the model's."""
    cls = type(iv.adapter)
    name = name_of(cls)
    if name is None:
        raise ConfigError(
            f"{cls.__name__} is not registered, and a file names what is",
            f'mechsteer.adapters.register("{cls.__name__.lower()}", {cls.__name__})',
        )
    return SavedEntry(
        kind="intervention",
        name=name,
        config=_plain(iv.adapter.config(), f"the configuration of {cls.__name__}"),
        module=number,
        site=SavedSite(**iv.site.to_dict()),
        reads=[] if iv.read is None else [SavedSite(**site.to_dict()) for site in iv.reads],
        scope=iv.scope.to_dict(),
        coeff=iv.coeff,
    )


def _plain(data: dict[str, Any], what: str) -> dict[str, Any]:
    """As JSON gives it back."""
    try:
        return json.loads(json.dumps(data))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{what} is nothing that JSON can hold: {error}", "use strings, numbers, lists and dicts"
        ) from error


def _name(model: Any) -> str:
    """The model's name for readers (the fingerprint is what counts): of a local folder only its last part."""
    name = str(getattr(model.cfg, "model_name", ""))
    return Path(name).name if Path(name).is_absolute() else name


def read_header(path: str | Path) -> SteeringHeader:
    """The header of a steering file, which is checked as a whole; needs no model, and nothing registered.

    Raises FileFormatError for a missing, truncated, damaged or foreign file and for another version.
    """
    return _read(path)[0]


def load_steering(path: str | Path, model: Any) -> Steering:
    """Read a steering file for `model`; logits under it are bit-equal to those before it was saved.

    Raises ModelMismatchError (naming both fingerprints) for another model, FileFormatError for a truncated,
    damaged or foreign file, an unknown version, or an adapter that nothing has registered.
    """
    header, tensors = _read(path)
    require_fingerprint(model, header.model_fingerprint, str(path))
    interventions = []
    adapters: dict[int, Adapter] = {}
    for number, entry in enumerate(header.entries):
        if entry.name not in ADAPTERS:
            near = closest(entry.name, ADAPTERS)
            raise FileFormatError(
                f"{path} needs the adapter {entry.name!r}, which nothing has registered",
                "import the module that registers it (a file never does); "
                + (f"closest are {near}" if near else f"registered are {list(ADAPTERS)}"),
            )
        try:
            adapter = adapters.get(entry.module)
            if adapter is None:
                adapter = ADAPTERS[entry.name].blank(entry.config)
                adapter.load_state_dict(tensors[entry.module], assign=True)
                adapters[entry.module] = adapter.to(backend_of(model).device)
            interventions.append(_attached(adapter, entry).at(model))
        except _UNBUILDABLE as error:
            raise FileFormatError(
                f"{path} holds an intervention (number {number}) that cannot be: {error}", AGAIN
            ) from error
    return Steering(interventions, header.coeff)


def _attached(adapter: Adapter, entry: SavedEntry) -> Intervention:
    """Raises MechsteerError for sites, scopes and numbers that cannot be."""
    site = Site(entry.site.layer, entry.site.point)
    reads = [Site(site.layer, site.point) for site in entry.reads] or None
    return Intervention(adapter, site, read=reads, scope=TokenScope.from_dict(entry.scope), coeff=entry.coeff)


def _read(path: str | Path) -> tuple[SteeringHeader, dict[int, dict[str, Tensor]]]:
    """(header, tensors by module number), as far as they can be checked without a model."""
    found = read_tensors(path, kind=KIND, hint=AGAIN)
    if found is None:
        raise FileFormatError(f"no steering file at {path}", "check the path")
    tensors, raw = found
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise FileFormatError(
            f"{path} has format version {version}, this mechsteer reads {FORMAT_VERSION}", "update mechsteer"
        )
    header = structured(raw, SteeringHeader, what=f"the header of {path}", hint=AGAIN)
    modules: dict[int, dict[str, Tensor]] = {entry.module: {} for entry in header.entries}
    described: dict[int, tuple[str, dict[str, Any]]] = {}
    for entry in header.entries:
        description = (entry.name, entry.config)
        if described.setdefault(entry.module, description) != description:
            raise FileFormatError(f"{path} describes adapter {entry.module} in two ways", AGAIN)
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        if not number.isdecimal() or int(number) not in modules:
            raise FileFormatError(f"{path} holds a tensor {key!r} of no adapter", AGAIN)
        modules[int(number)][name] = tensor
    if not math.isfinite(header.coeff):
        raise FileFormatError(f"the coefficient of {path} is {header.coeff}", AGAIN)
    return header, modules
