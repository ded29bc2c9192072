"""Steering files: safetensors with everything needed to apply them again, bit-equal, to the same model only.

The header holds format version, model fingerprint, sites, scopes, coefficients and the name and constructor
arguments of each adapter and observer, under a digest over it and the tensors (see `mechsteer.files.tensors`). A file
names what was registered (`mechsteer.adapters.register`) and never imports it; no pickle is read or written.

Quantised (see `mechsteer.steering.quantising`) a file is smaller and no longer bit-equal; it says what was lost.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechsteer import __version__
from mechsteer.adapters import ADAPTERS, OBSERVERS, Adapter, n_parameters, name_of
from mechsteer.errors import (
    ConfigError,
    FileFormatError,
    MechsteerError,
    MechsteerWarning,
    ModelMismatchError,
    UnknownSiteError,
    closest,
)
from mechsteer.files import structured
from mechsteer.files.tensors import content_digest, read_tensors, write_tensors
from mechsteer.models import Backend, Look, backend_of, differences, model_fingerprint, model_name
from mechsteer.models.sites import Site
from mechsteer.results import Interval
from mechsteer.runtime.observers import Observer
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.header import (
    SavedData,
    SavedEntry,
    SavedIntervention,
    SavedMetric,
    SavedModule,
    SavedObservation,
    SavedSite,
    SavedSteering,
    SteeringHeader,
)
from mechsteer.steering.interventions import Intervention, Interventions, Observation, Steering, flatten
from mechsteer.steering.quantising import Quantisation, quantised, restored

FORMAT_VERSION = 5
# 2 says of the model only its name, backend and width; 3 knows no quantisation; 4 no digest for readers without mechsteer,
# and its dictionaries route by activations as large as they are
_READABLE = (2, 3, 4, 5)
KIND = "steering file"
AGAIN = "copy it again, or make it again: train, then mechsteer.save_steering"
BUDGET = 100_000  # bytes of a whole file: what a booster may have
# what a class can raise that is built from a header of any content, its own checks included; where warnings are
# errors, these too
_UNBUILDABLE = (
    *(MechsteerError, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError),
    *(RuntimeError, TypeError, ValueError, Warning),
)
# kind of an entry -> what it attaches, and the classes that it may name
_NAMED: dict[str, tuple[str, Mapping[str, type[Adapter] | type[Observer]]]] = {
    "intervention": ("adapter", ADAPTERS),
    "observation": ("observer", OBSERVERS),
}


def save_steering(
    steering: Interventions,
    path: str | Path,
    model: Any,
    *,
    dtype: Quantisation | None = None,
    budget_bytes: int | None = BUDGET,
    data: Mapping[str, str] | None = None,
    metrics: Mapping[str, Interval] | None = None,
    licence: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> SavedSteering:
    """Write interventions and observations with the fingerprint of `model`; returns where and how large.

    What is returned is taken wherever a path is. `dtype` "float16" or "int8" makes the file smaller and the tensors
    inexact: what is lost of each stands in the header and in what is returned. `data` (name -> hash of what it was
    made from), `metrics` (name -> figure with its interval) and `licence` stand in the header and on the model card;
    `provenance` (JSON-able) is kept in the header. The file appears whole or not at all; a MechsteerWarning tells when
    it has more than `budget_bytes`.

    Raises StorageError when the disk refuses, UnknownSiteError for sites the model lacks, ConfigError for adapters and
    observers that are not registered, an unknown `dtype`, and for what JSON cannot hold, NonFiniteError for what
    `dtype` cannot hold.
    """
    steering = steering if isinstance(steering, Steering) else Steering(flatten(steering))
    tensors: dict[str, Tensor] = {}
    entries: list[SavedEntry] = []
    modules: dict[int, SavedModule] = {}
    for iv in steering.interventions:
        # one adapter at two sites is saved, and loaded, once
        module = modules.setdefault(id(iv.module), _module(iv.module, len(modules)))
        tensors |= {f"{module.number}.{name}": tensor for name, tensor in iv.module.state_dict().items()}
        entries.append(_entry(iv.at(model), module.number))
    tensors, errors = (tensors, []) if dtype is None else quantised(tensors, dtype)
    header = SteeringHeader(
        format_version=FORMAT_VERSION,
        model_fingerprint=model_fingerprint(model),
        model_name=model_name(model),
        backend=backend_of(model).kind,
        d_model=model.cfg.d_model,
        coeff=steering.coeff,
        entries=entries,
        provenance=_plain(dict(provenance or {}), "provenance"),
        model=Look.of(model),
        modules=list(modules.values()),
        bos_token_id=getattr(model.tokenizer, "bos_token_id", None),
        quantisation=dtype,
        errors=errors,
        data=[SavedData(name=_text(name), digest=_text(digest)) for name, digest in (data or {}).items()],
        metrics=[_metric(name, value) for name, value in (metrics or {}).items()],
        licence=None if licence is None else _text(licence),
        mechsteer_version=__version__,
    )
    path = write_steering_file(path, tensors, dataclasses.asdict(header))
    saved = SavedSteering(
        path=str(path),
        n_parameters=header.n_parameters,
        n_bytes=path.stat().st_size,
        quantisation=dtype,
        errors=tuple(errors),
    )
    if budget_bytes is not None and saved.n_bytes > budget_bytes:
        warnings.warn(
            f"{saved.describe()}: more than the budget of {budget_bytes:,} bytes; a smaller dtype or adapter would fit "
            "(mechsteer.steering.largest), budget_bytes sets another budget",
            MechsteerWarning,
            stacklevel=2,
        )
    return saved


def write_steering_file(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write a steering file of tensors as they are to lie in it and a header as plain data; returns the path."""
    if header["format_version"] > 4:
        header = {**header, "tensors_sha256": content_digest(tensors)}
    return write_tensors(path, tensors, header, kind=KIND)


def _module(module: Adapter | Observer, number: int) -> SavedModule:
    summary = module.summary if isinstance(module, Adapter) else None
    return SavedModule(
        number=number,
        n_parameters=n_parameters(module),
        pooling=None if summary is None else summary.pooling,
        source=None if summary is None else summary.source,
        bos=None if summary is None else summary.bos,
    )


def _metric(name: str, value: Interval) -> SavedMetric:
    if not isinstance(value, Interval):
        raise ConfigError(
            f"the metric {name!r} is a {type(value).__name__}",
            "a figure needs its interval: mechsteer.results.Interval(value=..., low=..., high=...)",
        )
    return SavedMetric(name=_text(name), value=float(value.value), low=float(value.low), high=float(value.high))


def _text(value: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{value!r:.80} is not text", "names, hashes and licences are given as strings")
    return value


def _entry(iv: Intervention | Observation, number: int) -> SavedEntry:
    """Of one whose sites are the model's."""
    cls = type(iv.module)
    what, classes = _NAMED["intervention" if isinstance(iv, Intervention) else "observation"]
    name = name_of(cls)
    if name is None or name not in classes:
        raise ConfigError(
            f"{cls.__name__} is not registered as an {what}, and a file names what is",
            f'mechsteer.adapters.register("{cls.__name__.lower()}", {cls.__name__})',
        )
    config = _plain(iv.module.config(), f"the configuration of {cls.__name__}")
    reads, scope = [SavedSite(**site.to_dict()) for site in iv.reads], iv.scope.to_dict()
    if isinstance(iv, Observation):
        return SavedObservation(kind="observation", name=name, config=config, module=number, reads=reads, scope=scope)
    return SavedIntervention(
        kind="intervention",
        name=name,
        config=config,
        module=number,
        site=SavedSite(**iv.site.to_dict()),
        reads=[] if iv.read is None else reads,
        scope=scope,
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


def read_header(path: str | Path) -> SteeringHeader:
    """The header of a steering file, which is checked as a whole; needs no model, and nothing registered.

    Raises FileFormatError for a missing, truncated, damaged or foreign file and for another version.
    """
    return _read(Path(path))[0]


def load_steering(path: str | Path, model: Any, *, strict: bool = True) -> Steering:
    """Read a steering file for `model`; logits and readings under it are bit-equal to those before it was saved.

    A quantised file comes back in float32, as near to what was saved as its header says.

    `strict=False` takes a model that is not the one the file was made for: the same checkpoint on another backend, in
    another dtype or mode, where a vector means nearly the same, or another checkpoint of the same shapes (from a base
    model to its fine-tuned one is a question worth asking), which a MechsteerWarning tells. One of other shapes
    is refused all the same: nothing in it is what the file is about.

    Raises ModelMismatchError for another model (both fingerprints, and in words what differs), FileFormatError for a
    truncated, damaged or foreign file, an unknown version, or an adapter or observer that nothing has registered.
    """
    path = Path(path)
    header, tensors = _read(path)
    is_own = model_fingerprint(model) == header.model_fingerprint
    if not is_own:
        _require_alike(path, header, model, strict=strict)
    found = _built(path, header, tensors, backend_of(model), model if is_own else None)
    return Steering(found if is_own else [_on_this(iv, model, path) for iv in found], header.coeff)


def read_steering(path: str | Path) -> Steering:
    """A steering file as it stands there, on the processor, without its model: to look at, not to steer with.

    Nothing is checked against a model. Raises FileFormatError as `load_steering` does.
    """
    path = Path(path)
    header, tensors = _read(path)
    return Steering(_built(path, header, tensors, None), header.coeff)


def _built(
    path: Path,
    header: SteeringHeader,
    tensors: Mapping[int, dict[str, Tensor]],
    backend: Backend | None,
    model: Any = None,
) -> list[Intervention | Observation]:
    """The entries of a file, in their order; at the sites of `model` where it is the file's own."""
    interventions = []
    modules: dict[int, Any] = {}  # adapters and observers
    for number, entry in enumerate(header.entries):
        what, classes = _NAMED[entry.kind]
        if entry.name not in classes:
            near = closest(entry.name, classes)
            raise FileFormatError(
                f"{path} needs the {what} {entry.name!r}, which nothing has registered",
                "import the module that registers it (a file never does); "
                + (f"closest are {near}" if near else f"registered are {list(classes)}"),
            )
        try:
            if entry.module not in modules:
                module = classes[entry.name].blank(entry.config)
                module.load_state_dict(tensors[entry.module], assign=True)
                _require_as_said(module, entry.module, header)
                modules[entry.module] = module if backend is None else module.to(_device(backend, entry))
            attached = _attached(modules[entry.module], entry)
            interventions.append(attached if model is None else attached.at(model))
        except _UNBUILDABLE as error:
            why = error.message if isinstance(error, MechsteerError) else error
            raise FileFormatError(
                f"{path} holds an {entry.kind} (number {number}) that cannot be: {why}", AGAIN
            ) from error
    return interventions


def _device(backend: Backend, entry: SavedEntry) -> torch.device:
    """Where what an entry holds is needed; where its layer is a ratio, or none of the model's, where tokens come in."""
    sites = entry.reads[:1] if isinstance(entry, SavedObservation) else (entry.site,)
    for site in sites:  # without any it is refused later, by name
        if isinstance(site.layer, int) and 0 <= site.layer < backend.cfg.n_layers:
            return backend.device_at(site.layer)
    return backend.device


def _on_this(iv: Any, model: Any, path: str | Path) -> Any:
    """`iv.at(model)`; a site of the file's model that this one does not have, or cannot write, is a mismatch."""
    try:
        return iv.at(model)
    except UnknownSiteError as error:
        raise ModelMismatchError(f"{path} does not fit this model: {error.message}", error.hint) from error


def _require_alike(path: str | Path, header: SteeringHeader, model: Any, *, strict: bool) -> None:
    """Raise ModelMismatchError, or warn, as `load_steering` says of a model that is not the file's."""
    now = Look.of(model)
    then = header.model or Look(backend=header.backend, dtype=now.dtype, shape={"d_model": header.d_model}, weights=[])
    found = differences(then, now)
    words = "; ".join(found.words if header.model else (*found.words, "the file is too old to tell more"))
    if not found.fits:
        name = f" ({header.model_name})" if header.model_name else ""
        raise ModelMismatchError(
            f"{path} was made for another model{name}: {words} (fingerprint {header.model_fingerprint}, "
            f"this model has {model_fingerprint(model)})",
            "load the model it was made for",
        )
    if strict:
        raise ModelMismatchError(
            f"{path} was made for the model with fingerprint {header.model_fingerprint}, this model has "
            f"{model_fingerprint(model)}: {words}",
            "load the model it was made for: same checkpoint, backend, mode and dtype, with nothing folded in; "
            "or take it as it is: strict=False",
        )
    if not found.is_same_checkpoint:
        warnings.warn(f"{path} is applied to another model than its own: {words}", MechsteerWarning, stacklevel=3)


def _attached(module: Any, entry: SavedEntry) -> Intervention | Observation:
    """Raises MechsteerError for sites, scopes and numbers that cannot be."""
    reads, scope = [Site(site.layer, site.point) for site in entry.reads], TokenScope.from_dict(entry.scope)
    if isinstance(entry, SavedObservation):
        return Observation(module, reads, scope)
    site = Site(entry.site.layer, entry.site.point)
    return Intervention(module, site, read=reads or None, scope=scope, coeff=entry.coeff)


def _read(path: Path) -> tuple[SteeringHeader, dict[int, dict[str, Tensor]]]:
    """(header, tensors by module number), as far as they can be checked without a model."""
    found = read_tensors(path, kind=KIND, hint=AGAIN)
    if found is None:
        raise FileFormatError(f"no steering file at {path}", "check the path")
    stored, raw = found
    version = raw.get("format_version")
    if version not in _READABLE:
        raise FileFormatError(
            f"{path} has format version {version}, this mechsteer reads {_READABLE[0]} to {_READABLE[-1]}",
            "update mechsteer",
        )
    header = structured(raw, SteeringHeader, what=f"the header of {path}", hint=AGAIN)
    modules: dict[int, dict[str, Tensor]] = {entry.module: {} for entry in header.entries}
    described: dict[int, tuple[str, dict[str, Any]]] = {}
    for entry in header.entries:
        description = (entry.name, entry.config)
        if described.setdefault(entry.module, description) != description:
            raise FileFormatError(f"{path} describes {_NAMED[entry.kind][0]} {entry.module} in two ways", AGAIN)
    for key, tensor in restored(stored, header.errors, path=path, hint=AGAIN).items():
        number, _, name = key.partition(".")
        if not number.isdecimal() or int(number) not in modules:
            raise FileFormatError(f"{path} holds a tensor {key!r} of no adapter or observer", AGAIN)
        modules[int(number)][name] = tensor
    if not math.isfinite(header.coeff):
        raise FileFormatError(f"the coefficient of {path} is {header.coeff}", AGAIN)
    return header, modules


def _require_as_said(module: Adapter | Observer, number: int, header: SteeringHeader) -> None:
    """Raise ConfigError unless size and pooling are those that the header tells its readers."""
    if header.format_version > 3 and _module(module, number) not in header.modules:
        raise ConfigError("its size or its pooling is not what the header says", AGAIN)
