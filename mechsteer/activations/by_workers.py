"""Shards of a capture by Ray workers, each with a model of its own.

What workers read lies in the store's folder while they run: the plan, the tokens, steering as a steering file. What
goes through the cluster is a shard's number and that it is there.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mechsteer.activations.files import DTYPES, storage_errors
from mechsteer.activations.manifest import MANIFEST, PLAN, Manifest, read_manifest
from mechsteer.activations.rows import Rows
from mechsteer.activations.running import Run, write_shard
from mechsteer.activations.store import shard_place
from mechsteer.cluster import DESK, Work, named, workers
from mechsteer.errors import FileFormatError
from mechsteer.files import PARTIAL
from mechsteer.models import backend_of, load_recipe, recipe_of, twin_of
from mechsteer.runtime.session import open_sessions

HELPS = True  # whether the driver writes shards while workers begin
TOKENS, LENGTHS, STEERING, MODEL = "tokens.npy", "prompt_lengths.npy", "steering.safetensors", "model"
# by name: steering lies above this room
SAVE, LOAD = "mechsteer.steering.files:save_steering", "mechsteer.steering.files:load_steering"


def shards_by_workers(
    folder: Path,
    manifest: Manifest,
    run: Run,
    steering: Sequence[Any],
    missing: Sequence[int],
    n_workers: int,
    kept: np.ndarray,
    done: Callable[[int], Any],
) -> None:
    """Have the `missing` shards written, as `write_shard` writes them; `done` is told of prompts.

    Until workers have begun this process writes shards, on one torch thread as they do; not on a graphics card.
    The caller holds the folder's lock and has written the plan. Raises the first error of any worker.
    """
    model = run.model
    enclosing = [iv for session in open_sessions(model) for iv in session.interventions if iv.writes is not None]
    active = [*enclosing, *steering]
    n_gpus = 1.0 if run.backend.device.type == "cuda" else 0.0
    with contextlib.ExitStack() as stack:
        stack.callback(clear_partial, folder)  # of workers that were killed
        pool = stack.enter_context(workers(folder, n_workers, n_gpus=n_gpus))
        with storage_errors(folder):
            np.save(pool.desk / TOKENS, run.rows.tokens)
            if run.prompt_lengths is not None:
                np.save(pool.desk / LENGTHS, run.prompt_lengths.cpu().numpy())
        if active:
            named(SAVE)(active, pool.desk / STEERING, model, budget_bytes=None)
        setup = {
            "folder": str(folder.resolve()),
            "capture": manifest.digest,
            # in a context of its own: what is saved is run first, and enclosing `steer` blocks are not of it
            "model": contextvars.Context().run(recipe_of, model, pool.desk / MODEL),
            "is_steered": bool(active),
        }
        modules = tuple(sorted({type(iv.module).__module__ for iv in active}))
        work = Work(make=f"{__name__}:shard_maker", setup=setup, folder=folder, imports=modules, n_gpus=n_gpus)

        def meanwhile(number: int, look: Callable[[], None]) -> None:
            begin, end = manifest.shards[number], manifest.shards[number + 1]
            with _one_thread(), run.attached(list(steering)):
                write_shard(shard_place(folder, manifest, number), begin, end, run, kept, lambda _n: look())

        for number, answer in pool.each(work, missing, meanwhile=meanwhile if HELPS and not n_gpus else None):
            if answer.error is not None:
                raise answer.error
            shard = missing[number]
            done(manifest.shards[shard + 1] - manifest.shards[shard])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(n_threads)


def clear_partial(folder: Path) -> None:
    """Remove what was written of shards that did not become whole. Raises StorageError."""
    with storage_errors(folder):
        for left in folder.glob(f"*{PARTIAL}"):
            left.unlink(missing_ok=True)


def shard_maker(setup: Mapping[str, Any]) -> Callable[[int], int]:
    """On a worker: load the model, once, and return what writes the shard of a number."""
    folder = Path(setup["folder"])
    manifest = read_manifest(folder / PLAN) or read_manifest(folder / MANIFEST)
    if manifest is None or manifest.digest != setup["capture"]:
        raise FileFormatError(f"{folder} holds another capture than the one that is to be made", "start it again")
    model = load_recipe(setup["model"], manifest.fingerprint)
    desk = folder / DESK
    lengths = np.asarray(manifest.lengths, dtype=np.int64)
    rows = Rows(np.load(desk / TOKENS), lengths, np.concatenate([[0], np.cumsum(lengths)]))
    kept = rows.is_kept(manifest.bos_id)
    prompt_lengths = np.load(desk / LENGTHS).tolist() if (desk / LENGTHS).exists() else None
    backend = (twin_of(model) if manifest.engine == "twin" else None) or backend_of(model)
    dtype: torch.dtype = DTYPES[manifest.dtype]
    run = Run(model, backend, manifest.located, rows, manifest.batch_size, dtype, prompt_lengths, manifest.pad_id)
    steering = list(named(LOAD)(desk / STEERING, model).flat()) if setup["is_steered"] else []
    writer = f".{socket.gethostname()}-{os.getpid()}"

    def write(number: int) -> int:
        begin, end = manifest.shards[number], manifest.shards[number + 1]
        with run.attached(steering):
            write_shard(shard_place(folder, manifest, number), begin, end, run, kept, lambda _n: None, writer=writer)
        return number

    return write
