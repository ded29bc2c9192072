"""What it costs to check an activation store while it is read for the first time.

    python scripts/bench_store.py

Reading a store of 200 MB whole, in the three ways there are, without the check and with it, in turns, each time by a
store that was just opened; once with its files in the page cache and once from the disk. The check's share is the median
over the rounds, of neighbours in time.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import mechsteer as ms
from mechsteer.activations import shards
from mechsteer.activations.files import ShardWriter
from mechsteer.activations.manifest import MANIFEST, Manifest, SavedSite
from mechsteer.activations.store import shard_place

SITE, D_MODEL, LENGTH, N_ROWS, N_SHARDS = ms.Site(4, "resid_post"), 768, 128, 128, 4


def write_store(folder: Path) -> None:
    """A store as `capture` writes one, of random numbers."""
    manifest = Manifest(
        **dict.fromkeys(("fingerprint", "model", "model_dtype", "prompts"), "none"),
        **{"engine": "model", "processing": {}, "n_layers": 8, "steering": None, "dtype": "float32"},
        **{"batch_size": 16, "drop_bos": True, "bos_id": 0, "pad_id": 0, "labels": None},
        sites=[SavedSite(layer=4, point=SITE.point)],
        shards=[N_ROWS * i for i in range(N_SHARDS + 1)],
        lengths=[LENGTH] * N_ROWS * N_SHARDS,
        prompt_ids=list(range(N_ROWS * N_SHARDS)),
    )
    generator = torch.Generator().manual_seed(0)
    lengths = np.full(N_ROWS, LENGTH)
    for number in range(N_SHARDS):
        tokens, mask = np.zeros(N_ROWS * LENGTH, int), np.ones(N_ROWS * LENGTH, bool)
        writer = ShardWriter(shard_place(folder, manifest, number), tokens, lengths, mask, torch.float32)
        values = torch.randn(N_ROWS * LENGTH, D_MODEL, generator=generator)
        writer.write({str(SITE): values}, list(range(N_ROWS)), lengths.tolist())
        writer.commit()
    manifest.write(folder / MANIFEST)


def _uncached(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """The same reading, without a digest being taken: whatever is compared with one is equal to it."""

    def of_nothing(pieces: Iterable[memoryview]) -> object:
        for _ in pieces:  # which reads them
            pass
        return mock.ANY

    with mock.patch.multiple(
        shards, bytes_digest=of_nothing, table_digest=lambda *_: mock.ANY, tensor_digest=lambda *_: mock.ANY
    ):
        yield


def _seconds(
    folder: Path, read: Callable[[ms.StoredActivations], object], *, checked: bool, cold: bool
) -> tuple[float, float]:
    """Wall and processor time of the first reading of a store that was just opened."""
    store = ms.open_store(folder)
    if cold:
        _uncached(folder)
    with contextlib.nullcontext() if checked else _unchecked():
        began, busy = time.perf_counter(), time.process_time()
        read(store[SITE])
        return time.perf_counter() - began, time.process_time() - busy


WAYS: dict[str, Callable[[ms.StoredActivations], object]] = {
    "load()": lambda acts: acts.load(),
    "batches": lambda acts: [None for _ in acts],
    "flat_batches": lambda acts: [None for _ in acts.flat_batches()],
}


def _measured(folder: Path, name: str, *, cold: bool, rounds: int) -> str:
    read, seconds = WAYS[name], {True: [], False: []}
    for i in range(rounds + 2):  # the first two warm up
        for checked in (True, False) if i % 2 else (False, True):
            elapsed = _seconds(folder, read, checked=checked, cold=cold)
            if i > 1:
                seconds[checked].append(elapsed)
    with_, without = (1e3 * np.array(seconds[checked]) for checked in (True, False))  # [rounds 2] ms
    median, least = (np.median(without, 0), np.median(with_, 0)), (without.min(0), with_.min(0))
    # of neighbours in time: what else the machine does is then in both
    wall, busy = np.median(with_ / without, 0) - 1
    return (
        f"{median[0][0]:.0f} ms read, {median[1][0]:.0f} ms read and checked ({least[0][0]:.0f} and {least[1][0]:.0f} at "
        f"best); the check is {wall:.1%} of the reading ({busy:.1%} of its processor time, {least[1][0] / least[0][0] - 1:.1%} "
        "at best)"
    )


def main(rounds: int = 41) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "store"
        folder.mkdir()
        write_store(folder)
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        for cold in (False, True):
            for name in WAYS:
                place = "from the disk" if cold else "in the page cache"
                measured = _measured(folder, name, cold=cold, rounds=rounds // 3 if cold else rounds)
                print(f"{name:13} {megabytes:.0f} MB {place}: {measured}", flush=True)


if __name__ == "__main__":
    main()
