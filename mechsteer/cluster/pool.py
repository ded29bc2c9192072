"""Workers of a Ray cluster and the pieces they compute.

A worker is one process (an actor): it makes what it needs once (a model) and then computes one piece after the other.
Nothing goes through the cluster but texts: the name of the function, settings, the pieces' names, short answers. What
a piece makes lies in a folder that all machines see.

A worker that is lost (killed, out of memory, its machine gone) loses the piece it was at, which another one computes
again. Its replacement begins where the cluster has a place; where there is none the others go on. That there is none
for any of them is told, once, and waited for.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mechsteer.cluster.connection import connected
from mechsteer.cluster.fitting import desk, versions
from mechsteer.cluster.worker import Answer, Worker, read_answer
from mechsteer.errors import ClusterError, ConfigError, MechsteerWarning

PATIENCE = 15.0  # seconds for the first worker to be there: a process and its imports take a few
TRIES = 3  # of a piece whose workers are lost: then it is the piece
_LOST = "it may have run out of memory: fewer workers, or a smaller batch_size; started again it goes on where it was"


Meanwhile = Callable[[Any, Callable[[], None]], Any]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What workers are to do.

    `make` ("module:function") is called once in each with `setup`, as JSON has it, and returns what computes a piece.
    `folder` is the one that all see, `imports` modules of the user's that register adapters, `paths` folders where `make`
    and these are found too, `n_gpus` graphics cards of each worker (a share, where several go on one).
    """

    make: str
    setup: Mapping[str, Any]
    folder: Path
    imports: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    n_gpus: float = 0.0


@contextlib.contextmanager
def workers(folder: Path, n_workers: int, *, n_gpus: float = 0.0) -> Iterator[Pool]:
    """A pool of `n_workers` on `folder`, whose lock the caller holds; they end with the block.

    Raises ClusterError as `connected` does, ConfigError for less than one worker, StorageError.
    """
    if n_workers < 1:
        raise ConfigError(f"{n_workers} workers", "give at least one, or leave workers out: all runs in this process")
    with connected(n_workers, n_gpus=n_gpus) as ray, desk(folder) as (path, token):
        pool = Pool(ray, folder, path, token, n_workers)
        try:
            yield pool
        finally:
            pool.close()


@dataclass
class Pool:
    """Workers that come and go; `desk` is a folder for what they read, gone with them.

    `patience`: seconds without any worker after which that is told.
    """

    ray: Any
    folder: Path
    desk: Path
    token: str
    n_workers: int
    patience: float = field(default_factory=lambda: PATIENCE)
    _busy: dict[Any, tuple[Any, int | None]] = field(default_factory=dict)  # answer to come -> (worker, its piece)
    _idle: list[Any] = field(default_factory=list)  # workers that have stayed
    _there: dict[Any, Any] = field(default_factory=dict)  # of a worker that begins: answer to come -> that it is there
    _is_told: bool = False

    def each(
        self, work: Work, pieces: Sequence[Any], *, stay: bool = False, meanwhile: Meanwhile | None = None
    ) -> Iterator[tuple[int, Answer]]:
        """(number of a piece, its answer) as they come; workers that `stay` are there for more pieces of the same work.

        `meanwhile(piece, look)` computes a piece here, for as long as no worker has begun: starting one and loading its
        model takes seconds. It calls `look` now and then, which gives pieces to workers that have.

        Raises what a worker raises while it begins, and ClusterError. Warns, once, where no worker finds a place.
        """
        left, lost = deque(range(len(pieces))), Counter[int | None]()
        for _ in range(min(self.n_workers, len(pieces)) - len(self._busy)):  # some may be beginning still
            if self._idle:
                self._give(self._idle.pop(), pieces, left.popleft())
            else:
                self._hire(work)
        n_told = 0
        while n_told < len(pieces):
            if meanwhile is not None:
                self._look(pieces, left)
                is_heard = self.ray.wait(list(self._busy), num_returns=1, timeout=0)[0]  # of one that cannot begin, say
                if left and not is_heard and all(number is None for _, number in self._busy.values()):
                    number = left.popleft()
                    value = meanwhile(pieces[number], lambda: self._look(pieces, left))
                    n_told += 1
                    yield number, Answer(value=value)
                    continue
                meanwhile = None
            self._tell_of_no_place(work)
            (done, *_), _ = self.ray.wait(list(self._busy), num_returns=1)
            worker, number = self._busy.pop(done)
            self._there.pop(done, None)
            try:
                answer = read_answer(self.ray.get(done))
            except self.ray.exceptions.RayError as error:
                lost[number] += 1
                self._let_go(worker)
                why = ClusterError(f"{lost[number]} workers were lost{_at(pieces, number)}: {_reason(error)}", _LOST)
                gave_up = lost[None] >= TRIES
                if number is None and gave_up and not self._busy:
                    raise why from error
                if number is not None and lost[number] < TRIES:
                    left.appendleft(number)
                elif number is not None:
                    n_told += 1
                    yield number, Answer(error=why)
                if left and len(self._busy) < self.n_workers and not (gave_up and self._busy):
                    self._hire(work)
                continue
            if number is not None:
                lost.pop(None, None)
                n_told += 1
            elif answer.error is not None:
                raise answer.error
            if left:
                self._give(worker, pieces, left.popleft())
            elif stay:
                self._idle.append(worker)
            else:
                self._let_go(worker)
            if number is not None:
                yield number, answer

    def _hire(self, work: Work) -> None:
        told = {
            **{"cwd": str(Path.cwd()), "folder": str(self.folder.resolve()), "token": self.token},
            **{
                "versions": versions(),
                "imports": list(work.imports),
                "paths": list(work.paths),
                "make": work.make,
                "setup": dict(work.setup),
            },
        }
        actor = self.ray.remote(Worker).options(num_cpus=1, num_gpus=work.n_gpus, max_restarts=0)
        worker = actor.remote()
        there, begun = worker.__ray_ready__.remote(), worker.begin.remote(json.dumps(told))
        self._busy[begun], self._there[begun] = (worker, None), there

    def _tell_of_no_place(self, work: Work) -> None:
        """Wait a while for a worker to be there, and warn if none is. One that loads a model is there."""
        if self._is_told or len(self._there) < len(self._busy):  # some compute
            return
        if self.ray.wait(list(self._there.values()), num_returns=1, timeout=self.patience)[0]:
            return
        self._is_told = True
        there, free = self.ray.cluster_resources(), self.ray.available_resources()
        needs = "1 processor" + (f" and {work.n_gpus:g} graphics cards" if work.n_gpus else "")
        kinds = {"CPU": "processors"} | ({"GPU": "graphics cards"} if work.n_gpus else {})
        found = ", ".join(f"{free.get(key, 0):g} of {there.get(key, 0):g} {name} free" for key, name in kinds.items())
        warnings.warn(
            f"no worker has a place after {self.patience:g} s: each needs {needs}, the cluster has {found}; waiting goes "
            "on until a machine joins (ray start --address=...) or what runs there ends",
            MechsteerWarning,
            stacklevel=3,
        )

    def _look(self, pieces: Sequence[Any], left: deque[int]) -> None:
        """Pieces for the workers that have begun by now; what else there is to hear is left for later."""
        for begun in self.ray.wait(list(self._busy), num_returns=len(self._busy), timeout=0)[0]:
            worker, number = self._busy[begun]
            if number is not None or not left:
                continue
            try:
                answer = read_answer(self.ray.get(begun))
            except self.ray.exceptions.RayError:
                continue
            if answer.error is None:
                del self._busy[begun]
                self._there.pop(begun, None)
                self._give(worker, pieces, left.popleft())

    def _give(self, worker: Any, pieces: Sequence[Any], number: int) -> None:
        self._busy[worker.compute.remote(json.dumps(pieces[number]))] = (worker, number)

    def _let_go(self, worker: Any) -> None:
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(worker)

    def close(self) -> None:
        """End all workers that are left."""
        for worker in (*(worker for worker, _ in self._busy.values()), *self._idle):
            self._let_go(worker)
        self._busy.clear()
        self._there.clear()
        self._idle.clear()


def _at(pieces: Sequence[Any], number: int | None) -> str:
    return " before they had begun" if number is None else f" at piece {json.dumps(pieces[number])[:200]}"


def _reason(error: BaseException) -> str:
    """What Ray says of a lost worker, in a line."""
    told = [line.strip() for line in str(error).splitlines() if line.strip()]
    failed = [line for line in told if "Error" in line]
    return (failed or told or [type(error).__name__])[-1][:300]
