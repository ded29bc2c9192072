"""Small models, side by side: independent pieces of work at once, each on one torch thread.

Operations on a small model are too short to be shared out: where both processors are busy elsewhere, two torch threads
spin while they wait for each other, and a piece takes four to twenty times as long. Pieces that write texts or train
(arms, batches of prompts, trainings), each on one thread of a process of its own, wait for nobody, give the same bits
however many run, and take less time than in a row when nothing else runs (`python scripts/bench.py threads` measures all
of this).
"""

from __future__ import annotations

import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

from mechsteer.runtime.forks import can_fork, forked

T = TypeVar("T")
R = TypeVar("R")

SMALL = 512
"""d_model up to which pieces run side by side; measured at 128 (the pocket models), nothing above it has been tried"""

_FEW = 3

Elsewhere = Callable[[Callable[[Any], Any], Sequence[Any]], None]
"""has pieces (a function and its items) computed so that computing them again here finds what they left on disk"""

_WORKERS: ContextVar[int] = ContextVar("mechsteer_workers", default=1)
_ELSEWHERE: ContextVar[Elsewhere | None] = ContextVar("mechsteer_elsewhere", default=None)


@contextlib.contextmanager
def side_by_side(model: Any) -> Iterator[None]:
    """Inside, `each_of` runs as many pieces at once as torch has threads, and every operation runs on one thread.

    numpy's products run on one thread too. Nothing changes for a model wider than `SMALL`, for one that is not on the
    processor, and where torch has one thread. The number of torch threads is the process's own: it is set back on
    leaving.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1 or not _is_small(model):
        yield
        return
    torch.set_num_threads(1)
    token = _WORKERS.set(n_threads)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        _WORKERS.reset(token)
        torch.set_num_threads(n_threads)


def _is_small(model: Any) -> bool:
    parameters = getattr(model, "parameters", None)  # None for what is no model
    first = None if parameters is None else next(parameters(), None)
    d_model = getattr(getattr(model, "cfg", None), "d_model", None)
    return first is not None and first.device.type == "cpu" and d_model is not None and d_model <= SMALL


@contextlib.contextmanager
def elsewhere(compute: Elsewhere | None) -> Iterator[None]:
    """Inside, `each_of` first calls `compute` with its pieces (`mechsteer.runtime.followed`); None: it does not."""
    token = _ELSEWHERE.set(compute)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


def each_of(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`function(item)` for every item, in the order of the items; inside `side_by_side` several at once.

    In forked processes where that is safe (`mechsteer.runtime.forks`), else in threads. A piece runs in the context of
    this call (open `steer` blocks and hints hold in it) with its gradient mode. What it changes but on disk may be
    lost. The first error, in the order of the items, is raised here; what had not begun does not begin.

    Inside `elsewhere` pieces are computed there first and then gone through here in a row.
    """
    n_workers, every = _WORKERS.get(), list(items)
    compute = _ELSEWHERE.get()
    if compute is not None and len(every) > 1:
        compute(_in_a_row(function), every)
        yield from map(_in_a_row(function), every)
    elif n_workers == 1 or len(every) < 2:
        yield from map(function, every)
    elif can_fork():
        # of a few pieces all run at once: of three on two processors none is left to run alone at the end
        n_at_once = len(every) if len(every) <= _FEW * n_workers else n_workers
        yield from forked(_in_a_row(function), every, n_at_once)
    else:
        yield from _in_threads(function, every, n_workers)


def _in_a_row(function: Callable[[T], R]) -> Callable[[T], R]:
    """The same, whose own pieces run one after another."""

    def piece(item: T) -> R:
        token = _WORKERS.set(1)
        try:
            with elsewhere(None):
                return function(item)
        finally:
            _WORKERS.reset(token)

    return piece


def _in_threads(function: Callable[[T], R], items: Sequence[T], n_workers: int) -> Iterator[R]:
    with_gradients, is_inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    alone = _in_a_row(function)

    def piece(item: T) -> R:
        with torch.inference_mode(is_inference), torch.set_grad_enabled(with_gradients):
            return alone(item)

    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="mechsteer")
    left, running = iter(items), deque[Future[R]]()
    try:
        while True:
            while len(running) < 2 * n_workers and (more := next(left, _END)) is not _END:
                running.append(pool.submit(contextvars.copy_context().run, piece, more))
            if not running:
                return
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_END: Any = object()
