"""What a steering file says beside its tensors, and what saving one tells."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from mechsteer.models import Look
from mechsteer.results import Result


@dataclass(frozen=True, kw_only=True)
class SavedSite:
    """A site of the model that the file is of."""

    layer: int
    point: str


@dataclass(frozen=True, kw_only=True)
class SavedIntervention:
    """One intervention. Those with the same `module` number share one adapter, whose tensors carry that number."""

    kind: Literal["intervention"]
    name: str  # what the adapter is registered as
    config: dict[str, Any]  # what its `blank` is given
    module: int
    site: SavedSite  # that it writes
    reads: list[SavedSite]  # empty: the site that it writes
    scope: dict[str, Any]
    coeff: float


@dataclass(frozen=True, kw_only=True)
class SavedObservation:
    """One observation. Those with the same `module` number share one observer, whose tensors carry that number."""

    kind: Literal["observation"]
    name: str  # what the observer is registered as
    config: dict[str, Any]  # what its `blank` is given
    module: int
    reads: list[SavedSite]
    scope: dict[str, Any]


SavedEntry = SavedIntervention | SavedObservation


@dataclass(frozen=True, kw_only=True)
class SavedModule:
    """One adapter or observer: its size, and what it is told of a prompt (None: nothing)."""

    number: int
    n_parameters: int
    pooling: str | None = None
    source: str | None = None
    bos: bool | None = None


@dataclass(frozen=True, kw_only=True)
class SavedMetric:
    """A figure with its interval."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class SavedData:
    """A data set that it was made from, and its hash."""

    name: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class TensorError(Result):
    """What quantisation loses of one tensor."""

    name: str
    dtype: str
    """that it had"""
    stored: str
    """float16 or int8; a matrix of int8 has one float16 scale per row beside it"""
    max_error: float
    """largest difference of an entry"""
    relative_error: float
    """norm of the difference, as a share of the tensor's norm"""


@dataclass(frozen=True, kw_only=True)
class SteeringHeader:
    """What a steering file says beside its tensors."""

    format_version: int
    model_fingerprint: str  # of the model as it was loaded
    model_name: str
    backend: str
    d_model: int
    coeff: float
    entries: list[SavedEntry]  # in the order of application
    provenance: dict[str, Any]
    model: Look | None = None  # since version 3; since 4 it has the checkpoint's fingerprint
    # since version 4
    modules: list[SavedModule] = field(default_factory=list)
    bos_token_id: int | None = None  # of the model's tokenizer: what a summary without BOS leaves out
    quantisation: str | None = None
    errors: list[TensorError] = field(default_factory=list)  # of the tensors that are quantised
    data: list[SavedData] = field(default_factory=list)
    metrics: list[SavedMetric] = field(default_factory=list)
    licence: str | None = None
    mechsteer_version: str | None = None
    tensors_sha256: str | None = None  # since version 5, for readers without mechsteer (`files.tensors.content_digest`)
    gain_presets: dict[str, list[float]] = field(default_factory=dict)  # name -> gains of all atoms, in their order

    @property
    def n_parameters(self) -> int:
        """Of all adapters and observers, each once; 0 in files older than version 4."""
        return sum(module.n_parameters for module in self.modules)


@dataclass(frozen=True, kw_only=True)
class SavedSteering(Result, os.PathLike[str]):
    """A steering file that was written: where, how large, and what quantisation lost. A path wherever one is taken."""

    path: str
    n_parameters: int
    n_bytes: int
    """of the whole file, header included"""
    quantisation: str | None
    errors: tuple[TensorError, ...]

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path

    def describe(self) -> str:
        """Path, size and loss in a sentence."""
        size = f"{self.path}: {self.n_parameters:,} parameters in {self.n_bytes:,} bytes"
        if self.quantisation is None:
            return f"{size}, to the bit"
        worst = max((each.relative_error for each in self.errors), default=0.0)
        return f"{size}, as {self.quantisation}: of a tensor at most {worst:.2e} of its norm is lost"
