"""Pieces of work in forked processes: what Python's threads cannot do at once.

Python is much of a small model's time, and one process runs one thread of it at a time: pieces on threads wait for each
other, pieces in processes do not (`python scripts/bench.py threads` measures stages so, beside a row of them). A fork has the model, open `steer`
blocks and everything else of the moment it was made, shares their memory, and costs milliseconds. What a piece returns
comes back through a pipe between the two; nothing else that it changes does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from mechsteer.errors import MechsteerError

T = TypeVar("T")
R = TypeVar("R")


class LostProcessError(MechsteerError):
    """A process that ran a piece ended before it answered."""


class _ElsewhereError(Exception):
    """Where in the other process an error came from: its traceback, as text."""


@dataclass(frozen=True)
class _Answer:
    """Of a piece; with neither value nor error where these cannot be sent."""

    value: Any = None
    error: BaseException | None = None
    where: str = ""
    is_sent: bool = True
    warned: tuple[tuple[str, type[Warning], str, int], ...] = ()


@dataclass(frozen=True)
class _Worker:
    process: Any
    end: Connection


def can_fork() -> bool:
    """On Linux, from the main thread, where no other thread might hold a lock that the fork then waits for."""
    others = [thread for thread in threading.enumerate() if not thread.daemon]
    is_alone = others == [threading.main_thread()] and threading.current_thread() is others[0]
    return sys.platform == "linux" and is_alone and not torch.cuda.is_initialized()


def forked(function: Callable[[T], R], items: Sequence[T], n_workers: int) -> Iterator[R]:
    """`function(item)` for every item, in the order of the items, `n_workers` at once.

    The first error, in the order of the items, is raised here; what had not begun then does not begin, what runs is
    stopped. A piece whose answer cannot be sent runs again, here. Warnings are given again here.
    Raises LostProcessError where a process was killed.
    """
    workers: list[_Worker] = []
    answers: dict[int, _Answer] = {}
    try:
        for _ in range(n_workers):
            workers.append(_started(function, items, [worker.end for worker in workers]))
        asked = {worker.end: i for i, worker in enumerate(workers)}
        for end, i in asked.items():
            end.send(i)
        n_asked, n_told, failed = len(workers), 0, False
        while n_told < len(items):
            while n_told in answers:
                yield _result(answers.pop(n_told), function, items[n_told])
                n_told += 1
            if not asked:
                continue
            for end in wait(list(asked)):
                assert isinstance(end, Connection)
                i = asked.pop(end)
                answers[i] = _received(end)
                failed = failed or answers[i].error is not None
                if n_asked < len(items) and not failed:
                    with contextlib.suppress(BrokenPipeError):  # killed since: what is read from it says so
                        end.send(n_asked)
                    asked[end], n_asked = n_asked, n_asked + 1
    finally:
        for worker in workers:
            worker.end.close()
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def _started(function: Callable[[T], R], items: Sequence[T], earlier: list[Connection]) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    fork: Any = multiprocessing.get_context("fork")
    process = fork.Process(target=_work, args=(function, items, theirs, [*earlier, ours]), daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 warns of every fork of a process with threads, torch's own idle ones included
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _work(function: Callable[[T], R], items: Sequence[T], end: Connection, not_ours: Sequence[Connection]) -> None:
    """What a fork does: the pieces that it is asked for, until the pipe is closed."""
    for other in not_ours:
        other.close()
    tqdm.set_lock(threading.RLock())  # the one of all processes would stay locked where this one is stopped in a bar
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tokenizers' threads are not there in a fork, and it says so
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            end.send_bytes(_packed(_answered(function, items[end.recv()])))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answered(function: Callable[[T], R], item: T) -> _Answer:
    with warnings.catch_warnings(record=True) as caught:
        try:
            answer = _Answer(value=function(item))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 (raised again in the process that asked)
            answer = _Answer(error=error, where=traceback.format_exc())
    warned = tuple((str(each.message), each.category, each.filename, each.lineno) for each in caught)
    return _Answer(value=answer.value, error=answer.error, where=answer.where, warned=warned)


def _packed(answer: _Answer) -> bytes:
    """Of a class that cannot be found by its name, or an error that cannot be made again: that it is not sent."""
    try:
        packed = pickle.dumps(answer)
        if answer.error is not None:
            pickle.loads(packed)
    except Exception:  # noqa: BLE001 (whatever stands in the way, the piece runs again where it need not travel)
        return pickle.dumps(_Answer(is_sent=False))
    return packed


def _received(end: Connection) -> _Answer:
    try:
        return pickle.loads(end.recv_bytes())
    except (EOFError, ConnectionResetError):
        lost = LostProcessError(
            "a process that ran a piece of this work was killed",
            "it may have run out of memory: start again, it resumes",
        )
        return _Answer(error=lost)


def _result(answer: _Answer, function: Callable[[T], R], item: T) -> R:
    if not answer.is_sent:
        return function(item)
    for message, category, filename, lineno in answer.warned:
        warnings.warn_explicit(message, category, filename, lineno)
    if answer.error is not None:
        raise answer.error from (_ElsewhereError(answer.where) if answer.where else None)
    return answer.value
