"""What a capture is: the record that lies in a store's folder, as manifest.json, or as capture.json until it is done."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mechsteer.activations.files import DTYPES
from mechsteer.errors import FileFormatError, MechsteerError
from mechsteer.files import digest_of, read_record, structured, write_record
from mechsteer.models.sites import Site

FORMAT, VERSION = "mechsteer-activations", 3
MANIFEST, PLAN = "manifest.json", "capture.json"
_MOST = 2**31  # tokens are kept as int32
AGAIN = "run the same capture again: shards that are whole are kept"


@dataclass(frozen=True, kw_only=True)
class SavedSite:
    """A site of the model that was captured."""

    layer: int
    point: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that decides what a capture holds; captures with equal manifests are equal."""

    format: Literal["mechsteer-activations"] = FORMAT
    version: int = VERSION
    fingerprint: str
    engine: str
    model: str
    model_dtype: str
    processing: dict[str, Any]
    n_layers: int
    sites: list[SavedSite]
    dtype: str  # a key of DTYPES
    prompts: str  # digest of all tokens
    steering: str | None  # digest
    batch_size: int
    drop_bos: bool
    bos_id: int | None
    pad_id: int
    shards: list[int]  # shard i holds prompts shards[i] to shards[i + 1]
    lengths: list[int]  # [n_prompts] real tokens, BOS included
    prompt_ids: list[Any]
    labels: list[Any] | None

    @functools.cached_property
    def digest(self) -> str:
        """What the shards of this capture carry."""
        return digest_of(dataclasses.asdict(self))

    @property
    def located(self) -> list[Site]:
        return [Site(site.layer, site.point) for site in self.sites]

    def n_tokens(self, shard: int) -> int:
        """Real tokens in a shard."""
        return sum(self.lengths[self.shards[shard] : self.shards[shard + 1]])

    def write(self, path: Path) -> None:
        """Write it, atomically. Raises StorageError."""
        write_record(path, dataclasses.asdict(self), indent=None)


def read_manifest(path: Path) -> Manifest | None:
    """The manifest or plan at `path`, None if there is none; raises FileFormatError unless it is as it was written."""
    raw = read_record(path, hint=AGAIN)
    if raw is None:
        return None
    if raw.get("format") != FORMAT or raw.get("version") != VERSION:
        found = f"version {raw.get('version')!r}" if raw.get("format") == FORMAT else "another format"
        raise FileFormatError(
            f"{path} does not describe an activation store of version {VERSION}, but of {found}",
            "capture again with this version of mechsteer, into another folder",
        )
    manifest = structured(raw, Manifest, what=str(path), hint=AGAIN)
    _check(manifest, path)
    return manifest


def differing(before: Manifest, now: Manifest) -> list[str]:
    """Names of the fields in which two captures differ, as JSON has them."""
    fields: Mapping[str, Any] = dataclasses.asdict(before)
    return [key for key, value in dataclasses.asdict(now).items() if digest_of(fields[key]) != digest_of(value)]


def _check(manifest: Manifest, path: Path) -> None:
    """Raise FileFormatError for a manifest of the right types that describes no capture."""
    n, bounds = len(manifest.lengths), manifest.shards
    sound = (
        len(manifest.prompt_ids) == n
        and (manifest.labels is None or len(manifest.labels) == n)
        and bounds[:1] == [0]
        and bounds[-1] == n
        and all(a < b for a, b in itertools.pairwise(bounds))
        and all(0 < length < _MOST for length in manifest.lengths)
        and abs(manifest.pad_id) < _MOST
        and manifest.batch_size > 0
        and manifest.dtype in DTYPES
        and all(0 <= site.layer < manifest.n_layers for site in manifest.sites)
    )
    try:
        sound = sound and len(set(manifest.located)) == len(manifest.sites) > 0
    except MechsteerError:
        sound = False
    if not sound:
        raise FileFormatError(f"{path} describes no capture: its fields contradict each other", AGAIN)
