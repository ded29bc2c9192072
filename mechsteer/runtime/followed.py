"""A function that workers follow: its pieces (`each_of`) are computed there, and what they leave on disk is the result.

The pieces of a stage or of an analysis hold models, closures and data that no text tells. So none of it travels: every
worker calls the function itself, on what lies in the folder that all see, comes to the same `each_of`, and waits there
until it is told the numbers of pieces to compute. Then the driver goes through its pieces in a row, as one that was
killed and started again does: it finds on disk what is done, and the result is equal to the byte. So does a worker when
it is asked for a later piece. One that takes a lost worker's place begins at the front and reads what is there.

A piece that leaves nothing on disk is computed again by everybody who needs it: right, and not faster.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mechsteer.cluster import Pool, Work
from mechsteer.errors import ClusterError
from mechsteer.runtime.threads import elsewhere


@dataclass
class Followed:
    """The driver's side: what `elsewhere` takes. `work` makes a `Follower`'s `piece` on each worker of the pool."""

    pool: Pool
    work: Work
    n_calls: int = field(default=0, init=False)

    def __call__(self, _function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        """Raises what a piece raises, the first to come, and ClusterError."""
        call, self.n_calls = self.n_calls, self.n_calls + 1
        for _, answer in self.pool.each(self.work, [[call, len(items), i] for i in range(len(items))], stay=True):
            if answer.error is not None:
                raise answer.error


@dataclass(frozen=True)
class _Asked:
    call: int
    n_items: int
    number: int


class _EndedError(BaseException):
    """Nobody asks any more: the function is left where it is."""


class Follower:
    """A worker's side: `function` runs in a thread of its own, as far as to the pieces that are asked for."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._asked: queue.Queue[_Asked | None] = queue.Queue()
        self._answers: queue.Queue[BaseException | None] = queue.Queue()
        self._next: _Asked | None = None  # of a call that is not reached yet
        self._n_calls = 0
        self._thread = threading.Thread(target=self._run, name="mechsteer follower", daemon=True)
        self._thread.start()

    def piece(self, asked: Sequence[int]) -> None:
        """Compute piece [number of the `each_of`, how many pieces it has, number of the piece].

        Raises what the piece, or the way to it, raises, and ClusterError where the function comes to other pieces.
        """
        self._asked.put(_Asked(*asked))
        error = self._answers.get()
        if error is not None:
            raise error

    def end(self) -> None:
        """Leave the function."""
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with elsewhere(self._follow):
                self._function()
        except _EndedError:
            return
        except BaseException as raised:  # noqa: BLE001 (told to who asks)
            error = raised
        while self._await() is not None:
            self._next = None
            self._answers.put(error or ClusterError("a worker is through and is asked for a piece", _OTHER))

    def _await(self) -> _Asked | None:
        if self._next is None:
            self._next = self._asked.get()
        return self._next

    def _follow(self, function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        call, self._n_calls = self._n_calls, self._n_calls + 1
        while True:
            asked = self._await()
            if asked is None:
                raise _EndedError
            if asked.call > call:
                return
            self._next = None
            self._answers.put(self._computed(function, items, asked, call))

    def _computed(
        self, function: Callable[[Any], Any], items: Sequence[Any], asked: _Asked, call: int
    ) -> BaseException | None:
        if (asked.call, asked.n_items) != (call, len(items)):
            told = f"{asked.n_items} pieces of call {asked.call}, here {len(items)} of call {call}"
            return ClusterError(f"a worker came to other pieces than its driver: {told}", _OTHER)
        try:
            function(items[asked.number])
        except Exception as error:  # noqa: BLE001 (raised again where it was asked for)
            return error
        return None


_OTHER = "the folder was changed while it ran, or what was computed depends on more than it"
