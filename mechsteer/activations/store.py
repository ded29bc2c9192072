"""The on-disk store: reads, in prompt order or at random, without ever holding more than asked for.

A store is a folder of shards (see `mechsteer.activations.files`) and manifest.json, which is written last: a
folder without it is not a store yet. What is read is checked against its digests before it is handed out.
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

from mechsteer.activations.files import AGAIN, DTYPES, Place
from mechsteer.activations.manifest import MANIFEST, PLAN, Manifest, read_manifest
from mechsteer.activations.memory import Activations, contains, find_site, trajectories
from mechsteer.activations.pooling import Marker, Pooling
from mechsteer.activations.shards import Shard, open_shard
from mechsteer.errors import DataError, FileFormatError
from mechsteer.files.tensors import tensor_bytes
from mechsteer.models import require_fingerprint
from mechsteer.models.sites import Site, SiteLike
from mechsteer.runtime.drawing import as_generator
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
    """Site -> StoredActivations, on disk: `store[3]`, `store["blocks.3.hook_mlp_out"]` (see `as_site`)."""

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
        self._checked: list[set[str]] = [set() for _ in self._places]  # what need not be checked again, per shard
        for place in self._places:
            if not place.path.is_file():
                raise FileFormatError(f"{place.path} is missing", AGAIN)

    def shard(self, number: int) -> AbstractContextManager[Shard]:
        """A shard by number, open; raises FileFormatError if it cannot be read."""
        return open_shard(self._places[number], self._checked[number])

    @property
    def n_prompts(self) -> int:
        return len(self.lengths)

    @property
    def n_tokens(self) -> int:
        """Real tokens, BOS included."""
        return int(self.lengths.sum())

    def __getitem__(self, site: SiteLike) -> StoredActivations:
        located = find_site(site, dict.fromkeys(self._sites), self.manifest.n_layers)
        return StoredActivations(self, located)

    def __contains__(self, site: object) -> bool:
        return contains(self, site)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        return f"ActivationStore({str(self.folder)!r}, {self.n_prompts} prompts at {[str(s) for s in self]})"


class StoredActivations:
    """One site of a store. Iterating streams `Activations` batches in prompt order."""

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
        values, tokens, mask = self._rows(index)
        return Activations(
            site=self.site,
            values=values,
            tokens=tokens,
            mask=mask,
            lengths=self.lengths[index],
            prompt_ids=tuple(self.prompt_ids[i] for i in index),
            labels=None if self.labels is None else tuple(self.labels[i] for i in index),
        )

    def _rows(self, index: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(values [n_prompts pos ...], tokens [n_prompts pos], mask [n_prompts pos]); each shard is opened once."""
        lengths = self.lengths[index].tolist()
        size = len(index), max(lengths)
        tokens, mask = np.full(size, self.store.manifest.pad_id), np.zeros(size, dtype=bool)
        values, memory = torch.empty(0), memoryview(b"")
        shards = np.searchsorted(self.store.bounds, index, side="right") - 1
        for number in np.unique(shards).tolist():
            first = self.store.bounds[number]
            ends = torch.cumsum(self._lengths(number), 0).tolist()
            with self.store.shard(number) as shard:
                site, all_tokens, all_mask = shard.site(str(self.site)), shard["tokens"].numpy(), shard["mask"].numpy()
                if not memory:
                    values = torch.zeros(*size, *site.shape[1:], dtype=site.dtype)
                    memory = memoryview(tensor_bytes(values))
                for row in np.flatnonzero(shards == number).tolist():
                    prompt, length = index[row] - first, lengths[row]
                    end, at = ends[prompt], row * size[1] * site.n_bytes
                    tokens[row, :length], mask[row, :length] = (
                        all_tokens[end - length : end],
                        all_mask[end - length : end],
                    )
                    site.read(prompt, end - length, memory[at : at + length * site.n_bytes])
        return values, torch.from_numpy(tokens), torch.from_numpy(mask)

    def _lengths(self, shard: int) -> Lengths:
        return self.lengths[self.store.bounds[shard] : self.store.bounds[shard + 1]]

    def flat_batches(
        self,
        batch_size: int = 4096,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        drop_last: bool = False,
    ) -> Iterator[Tensor]:
        """[batch_size d_model] float32 batches of the analysed tokens alone (no pads, no BOS), for SAE training.

        In order, or with `generator` or `seed` shuffled: shards in random order and tokens within each; one shard is in
        memory at a time. The last batch may be shorter unless `drop_last`.
        """
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}", "it is at least 1")
        generator = as_generator(generator, seed)
        n_shards = len(self.store.bounds) - 1
        order = range(n_shards) if generator is None else torch.randperm(n_shards, generator=generator).tolist()
        rest: Tensor | None = None
        for number in order:
            with self.store.shard(number) as shard:
                flat = self._flat(shard, self._lengths(number).tolist(), rest, generator)
            *whole, last = flat.split(batch_size)
            yield from whole
            rest = last.clone()
        if rest is not None and (len(rest) == batch_size or (len(rest) and not drop_last)):
            yield rest

    def _flat(
        self, shard: Shard, lengths: list[int], before: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """`before`, then the analysed tokens of a shard, [n_tokens ...] float32; only these are ever held."""
        site, mask = shard.site(str(self.site)), shard["mask"]
        n, done = int(mask.sum()), 0
        places = None if generator is None else torch.randperm(n, generator=generator).argsort()
        n_before = 0 if before is None else len(before)
        flat = torch.empty(n_before + n, *site.shape[1:])
        if before is not None:
            flat[:n_before] = before
        own = flat[n_before:]
        for values, kept in zip(site.prompts(lengths), mask.split(lengths), strict=True):
            some = values[kept].float()
            span = slice(done, done + len(some))
            own[span if places is None else places[span]] = some
            done += len(some)
        return flat

    def trajectories(self) -> dict[Any, Tensor]:
        """As `Activations.trajectories`, batch by batch; all of them are then in memory."""
        return trajectories(self)

    def pool(self, how: Pooling = "last", marker: Marker | None = None) -> Tensor:
        """[n_prompts d_model], as `Activations.pool`, batch by batch."""
        return torch.cat([batch.pool(how, marker) for batch in self])

    def load(self) -> Activations:
        """All prompts in memory."""
        return self[:]

    def __repr__(self) -> str:
        return f"StoredActivations({self.site}, {len(self)} prompts in {str(self.store.folder)!r})"
