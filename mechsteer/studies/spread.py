"""The pieces of a stage on Ray workers: what launcher=ray does with a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mechsteer.adapters import registered_modules
from mechsteer.cluster import Work, connected, workers
from mechsteer.configs.schema import Settings
from mechsteer.runtime.followed import Followed
from mechsteer.runtime.threads import elsewhere
from mechsteer.studies.desk import Desk

RAY = "ray"
AT_ONCE = 2  # workers, unless a setting says how many
MAKE = "mechsteer.studies.follow:piece_maker"  # by its name: it lies above


@contextlib.contextmanager
def connection(settings: Settings) -> Iterator[None]:
    """A connection to Ray that holds from stage to stage; none where pieces are computed here. Raises ClusterError."""
    if settings.launcher != RAY:
        yield
        return
    with connected(settings.workers or AT_ONCE, n_gpus=settings.gpus):
        yield


@contextlib.contextmanager
def spread(desk: Desk) -> Iterator[None]:
    """Inside, pieces are computed by workers, each with a model of its own; they end with the block.

    The caller holds the run's folder. Raises what `mechsteer.cluster.workers` does.
    """
    settings = desk.all_settings
    if settings.launcher != RAY:
        yield
        return
    setup = {"folder": str(desk.folder.resolve()), "stage": desk.name, "checkpoints": desk.checkpoints.name}
    work = Work(make=MAKE, setup=setup, folder=desk.folder, imports=registered_modules(), n_gpus=settings.gpus)
    with (
        workers(desk.folder, settings.workers or AT_ONCE, n_gpus=settings.gpus) as pool,
        elsewhere(Followed(pool, work)),
    ):
        yield
