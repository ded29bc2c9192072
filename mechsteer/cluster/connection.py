"""A connection to a Ray cluster: the one that is there, or one of this machine for as long as it is needed."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from mechsteer.cluster import library
from mechsteer.errors import ClusterError

OBJECT_STORE = 80 * 2**20  # bytes, the least that Ray takes: names, numbers and short texts go through it
ADDRESS = "RAY_ADDRESS"
# the last: Ray prints a line for each worker that dies, whatever log_to_driver says; the pool says what came of it
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^A worker died or was killed",
}
# Ray takes "127.0.0.1" for "whatever this machine is called outside" and listens there, unless it is told, when it is
# imported, to be no cluster of several machines
ALONE = {**QUIET, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextlib.contextmanager
def connected(n_workers: int, *, n_gpus: float = 0.0) -> Iterator[Any]:
    """Ray, connected: to the cluster this process is connected to, or RAY_ADDRESS names, else to a local one.

    The local one listens on 127.0.0.1 alone, has a place for each of `n_workers`, reports nothing to anybody, and ends
    with the block, as a connection that was made here does. `n_gpus`: of each worker.

    Where it listens and what it prints Ray decides when it is imported: a program that has imported it before gets Ray's
    own choice of both.

    Raises ClusterError: no Ray, a cluster that cannot be reached or is of another version of Ray or Python, one
    without the graphics cards that are asked for.
    """
    address = os.environ.get(ADDRESS)
    with _environment(QUIET if address is not None else ALONE):
        ray = library.ray()
        is_ours = not ray.is_initialized()
        if is_ours:
            _connect(ray, address, n_workers)
    try:
        if n_gpus > 0 and ray.cluster_resources().get("GPU", 0.0) < n_gpus:
            found = ray.cluster_resources().get("GPU", 0.0)
            raise ClusterError(
                f"a worker needs {n_gpus:g} graphics cards, the cluster has {found:g}",
                "leave the key out to run on processors, or join a machine that has some (ray start --address=...)",
            )
        yield ray
    finally:
        if is_ours:
            ray.shutdown()


def _connect(ray: Any, address: str | None, n_workers: int) -> None:
    shared = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address is not None:
            ray.init(address=address, **shared)
            return
        ray.init(
            address="local",
            num_cpus=n_workers,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            _node_ip_address="127.0.0.1",
            **shared,
        )
    except (RuntimeError, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        if address is None:
            raise ClusterError(f"no cluster could be started on this machine: {why}", "see /tmp/ray") from error
        raise ClusterError(
            f"cannot join the cluster at {address}: {why}",
            f"start it (ray start --head) with the same Python and Ray as here, or unset {ADDRESS}",
        ) from error


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that are set meanwhile, unless the user has set them."""
    ours = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
