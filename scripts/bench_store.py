"""What it costs to check an activation store while it is read for the first time.

    python scripts/bench_store.py

Processor time of reading a store of 200 MB whole, in the three ways there are, without the check and with it, taken in
turns, the least of each; once with its files in the page cache and once from the disk (waiting for which is not counted,
and would make the check's share less).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import mechsteer as ms
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


def _seconds(folder: Path, read: Callable[[ms.StoredActivations], object], *, checked: bool, cold: bool) -> float:
    store = ms.open_store(folder)
    if checked:
        for names in store._checked:
            names |= {str(SITE), "tokens", "mask"}
    if cold:
        _uncached(folder)
    began = time.process_time()
    read(store[SITE])
    return time.process_time() - began


WAYS: dict[str, Callable[[ms.StoredActivations], object]] = {
    "load()": lambda acts: acts.load(),
    "batches": lambda acts: [None for _ in acts],
    "flat_batches": lambda acts: [None for _ in acts.flat_batches()],
}


def main(rounds: int = 15) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "store"
        folder.mkdir()
        write_store(folder)
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        for cold in (False, True):
            for name, read in WAYS.items():
                seconds: dict[bool, list[float]] = {True: [], False: []}
                for round_ in range(rounds + 1):  # the first warms up
                    for checked in (True, False):
                        elapsed = _seconds(folder, read, checked=checked, cold=cold)
                        if round_:
                            seconds[checked].append(elapsed)
                without, with_ = (min(seconds[checked]) for checked in (True, False))
                place = "from the disk" if cold else "in the page cache"
                print(
                    f"{name:13} {megabytes:.0f} MB {place}: {1e3 * without:.0f} ms read, {1e3 * with_:.0f} ms read and "
                    f"checked; the check is {with_ / without - 1:.1%} of the reading",
                    flush=True,
                )


if __name__ == "__main__":
    main()
