"""What workers are told to run in tests, by name: they import this module."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mechsteer.activations.by_workers import shard_maker
from mechsteer.activations.files import ShardWriter
from mechsteer.errors import DataError
from mechsteer.runtime.followed import Follower
from mechsteer.runtime.threads import each_of


def squares(setup: Mapping[str, Any]) -> Callable[[int], int]:
    return lambda piece: piece**2 + setup["more"]


def failing(setup: Mapping[str, Any]) -> Callable[[str], str]:
    """A piece is what is to happen."""

    def compute(piece: str) -> str:
        if piece == "data":
            raise DataError("row 3 is malformed", "look at row 3")
        if piece == "bug":
            raise ValueError("a bug of ours")
        if piece == "memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        if piece == "death":
            die()
        return piece

    return compute


def unmakeable(setup: Mapping[str, Any]) -> Callable[[int], int]:
    raise DataError("nothing can be made of this", "")


def dies_once(setup: Mapping[str, Any]) -> Callable[[int], int]:
    """The first worker that comes to piece 2 dies of it."""

    def compute(piece: int) -> int:
        if piece == 2 and first_time(setup):
            die()
        return piece

    return compute


def shards_of_one_that_dies(setup: Mapping[str, Any]) -> Callable[[int], int]:
    """As in a capture, but the first worker that has written half of shard 2 is killed."""
    write_shard, write = shard_maker(setup), ShardWriter.write

    def dying(self: ShardWriter, *args: Any) -> None:
        write(self, *args)
        if self.place.number == 2 and first_time({"marker": str(Path(setup["folder"]).with_name("marker"))}):
            die()

    ShardWriter.write = dying
    return write_shard


def first_time(setup: Mapping[str, Any]) -> bool:
    try:
        Path(setup["marker"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cells_that_die(setup: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The run of the model that is nowhere ends its worker."""

    def run(given: Mapping[str, Any]) -> dict[str, Any]:
        if given["model"] == "nowhere":
            die()
        return {"status": "done"}

    return run


def cells_with_a_bug(setup: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def run(given: Mapping[str, Any]) -> dict[str, Any]:
        raise ValueError("a bug of ours")

    return run


def in_two_steps(folder: Path) -> list[int]:
    """What is followed: three pieces, and three more that stand on what came of these; each leaves a file."""

    def kept(name: str, compute: Callable[[], int]) -> int:
        path = folder / name
        if not path.exists():
            with (folder / "computed").open("a") as file:
                file.write(f"{name}\n")
            path.write_text(str(compute()))
        return int(path.read_text())

    first = list(each_of(lambda i: kept(f"a{i}", lambda: i + 1), range(3)))
    return list(each_of(lambda i: kept(f"b{i}", lambda: 10 * sum(first) + i), range(3)))


def steps_maker(setup: Mapping[str, Any]) -> Callable[[list[int]], None]:
    """A worker that follows it; the first that comes to the last piece but one dies of it."""
    piece = Follower(lambda: in_two_steps(Path(setup["steps"]))).piece

    def compute(asked: list[int]) -> None:
        if asked == [1, 3, 1] and first_time(setup):
            die()
        piece(asked)

    return compute
