"""The on-disk store: reads, in prompt order or at random, without ever holding more than asked for.

A store is a folder of shards (see `mechsteer.activations.files`) and manifest.json, which is written last: a
folder without it is not a store yet. Each tensor of a shard is checked against its digest the first time it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mechsteer.activations.files import AGAIN, DTYPES, Place, Shard, open_shard
from mechsteer.activations.manifest import MANIFEST, PLAN, Manifest, read_manifest
from mechsteer.activations.memory import Activations, Pooling, find_site
from mechsteer.errors import DataError, FileFormatError
from mechsteer.models import require_fingerprint
from mechsteer.models.sites import Site
from mechsteer.shapes import Lengths


def shard_place(folder: Path, manifest: Manifest, number: int) -> Place:
    """Where a shard lies, and which it is."""
    return Place(
        path=folder / f"shard-{number:05d}.safetensors",
        capture=manifest.digest,
        number=number,
        n_tokens=manifest.n_tokens(number),
    )


def open_store(path: str | os.PathLike[str], *, model: Any = None) -> ActivationStore:
    """Open what `capture(..., path=...)` wrote.

    With `model`, the store must be of that model: raises ModelMismatchError, naming both fingerprints, where
    it is not. Raises FileFormatError for a folder that is no store, is of an unknown version, has lost a
    shard, or whose capture did not finish.
    """
    folder = Path(path)
    manifest = read_manifest(folder / MANIFEST)
    if manifest is None:
        unfinished = (folder / PLAN).is_file()
        raise FileFormatError(
            f"the capture into {folder} did not finish" if unfinished else f"{folder} is no activation store",
            "run the same capture again: it goes on where it was"
            if unfinished
            else "mechsteer.capture(..., path=...) writes one",
        )
    store = ActivationStore(folder, manifest)
    if model is not None:
        require_fingerprint(model, store.fingerprint, f"the activation store {folder}")
    return store


class ActivationStore(Mapping[Site, "StoredActivations"]):
    """Site -> StoredActivations, on disk. A site may be given by index or by depth ratio."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.fingerprint = manifest.fingerprint
        self.processing: Mapping[str, Any] = manifest.processing
        self.engine = manifest.engine
        self.dtype = DTYPES[manifest.dtype]
        self.batch_size = manifest.batch_size
        self.lengths: Lengths = torch.tensor(manifest.lengths)  # [n_prompts] real tokens, BOS included
        self.prompt_ids = tuple(manifest.prompt_ids)
        self.labels = None if manifest.labels is None else tuple(manifest.labels)
        self.bounds = manifest.shards  # shard i holds prompts bounds[i] to bounds[i + 1]
        self._sites = manifest.located
        self._places = [shard_place(folder, manifest, i) for i in range(len(self.bounds) - 1)]
        self._checked: list[set[str]] = [set() for _ in self._places]  # names of tensors, per shard
        for place in self._places:
            if not place.path.is_file():
                raise FileFormatError(f"{place.path} is missing", AGAIN)

    def shard(self, number: int) -> AbstractContextManager[Shard]:
        """A shard by number, memory-mapped; raises FileFormatError if it cannot be read."""
        return open_shard(self._places[number], self._checked[number])

    @property
    def n_prompts(self) -> int:
        return len(self.lengths)

    @property
    def n_tokens(self) -> int:
        """Real tokens, BOS included."""
        return int(self.lengths.sum())

    def __getitem__(self, site: Site) -> StoredActivations:
        located = find_site(site, dict.fromkeys(self._sites), self.manifest.n_layers)
        return StoredActivations(self, located)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        return f"ActivationStore({str(self.folder)!r}, {self.n_prompts} prompts at {[str(s) for s in self]})"


class StoredActivations:
    """One site of a store. Iterating streams `Activations` batches in prompt order, memory-mapped."""

    def __init__(self, store: ActivationStore, site: Site) -> None:
        self.store, self.site = store, site
        self.lengths, self.prompt_ids, self.labels = store.lengths, store.prompt_ids, store.labels

    def __len__(self) -> int:
        """Prompts."""
        return self.store.n_prompts

    def __iter__(self) -> Iterator[Activations]:
        return self.batches()

    def batches(self, batch_size: int | None = None) -> Iterator[Activations]:
        """`Activations` of `batch_size` prompts each (default: what they were captured with), in prompt order."""
        size = self.store.batch_size if batch_size is None else batch_size
        if size < 1:
            raise DataError(f"batch_size is {size}", "it is at least 1")
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def __getitem__(self, prompts: int | slice | Sequence[int]) -> Activations:
        """`Activations` of these prompts alone; an int gives a batch of one."""
        if isinstance(prompts, slice):
            index = list(range(*prompts.indices(len(self))))
        else:
            index = [int(prompts)] if isinstance(prompts, (int, np.integer)) else [int(p) for p in prompts]
        if not index or not all(-len(self) <= i < len(self) for i in index):
            raise DataError(f"prompts {prompts!r} of {len(self)}", "ask for prompts that are there, at least one")
        index = [i % len(self) for i in index]
        values, tokens, mask = zip(*self._rows(index), strict=True)
        pad = self.store.manifest.pad_id
        return Activations(
            site=self.site,
            values=pad_sequence(list(values), batch_first=True),
            tokens=pad_sequence([t.long() for t in tokens], batch_first=True, padding_value=pad),
            mask=pad_sequence(list(mask), batch_first=True),
            lengths=self.lengths[index],
            prompt_ids=tuple(self.prompt_ids[i] for i in index),
            labels=None if self.labels is None else tuple(self.labels[i] for i in index),
        )

    def _rows(self, index: list[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(values [pos ...], tokens [pos], mask [pos]) per prompt; each shard is opened once."""
        bounds, found = self.store.bounds, {}
        shards = np.searchsorted(bounds, index, side="right") - 1
        for shard in np.unique(shards):
            first = bounds[shard]
            ends = torch.cumsum(self.lengths[first : bounds[shard + 1]], 0).tolist()
            with self.store.shard(int(shard)) as file:
                parts = [file[name] for name in (str(self.site), "tokens", "mask")]
                for i in {i for i, s in zip(index, shards, strict=True) if s == shard}:
                    span = slice(ends[i - first] - int(self.lengths[i]), ends[i - first])
                    found[i] = tuple(part[span] for part in parts)
        return [found[i] for i in index]

    def flat_batches(
        self, batch_size: int = 4096, *, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[Tensor]:
        """[batch_size d_model] float32 batches of the analysed tokens alone (no pads, no BOS), for SAE training.

        In order, or with `generator` shuffled: shards in random order and tokens within each; one shard is in
        memory at a time. The last batch may be shorter unless `drop_last`.
        """
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}", "it is at least 1")
        n_shards = len(self.store.bounds) - 1
        order = range(n_shards) if generator is None else torch.randperm(n_shards, generator=generator).tolist()
        rest: list[Tensor] = []
        for shard in order:
            with self.store.shard(shard) as file:
                kept = file["mask"].nonzero()[:, 0]
                if generator is not None:
                    kept = kept[torch.randperm(len(kept), generator=generator)]
                values = file[str(self.site)][kept].float()
            flat = torch.cat([*rest, values])
            *whole, last = flat.split(batch_size)
            yield from whole
            rest = [last.clone()]
        if len(rest[0]) == batch_size or (len(rest[0]) and not drop_last):
            yield rest[0]

    def pool(self, how: Pooling = "last") -> Tensor:
        """[n_prompts d_model], as `Activations.pool`, batch by batch."""
        return torch.cat([batch.pool(how) for batch in self])

    def load(self) -> Activations:
        """All prompts in memory."""
        return self[:]

    def __repr__(self) -> str:
        return f"StoredActivations({self.site}, {len(self)} prompts in {str(self.store.folder)!r})"
