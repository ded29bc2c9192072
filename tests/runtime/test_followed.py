"""Pieces that are computed by followers: the same results, each piece once, whoever begins where."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cluster_toys import in_two_steps

from mechsteer.cluster import Answer, Work
from mechsteer.errors import ClusterError, DataError
from mechsteer.runtime.followed import Followed, Follower
from mechsteer.runtime.threads import each_of, elsewhere


class Pool:
    """Followers in this process, who take turns; a new one comes for each call where they do not stay."""

    def __init__(self, make: Any, n: int, *, changing: bool = False) -> None:
        self.make, self.n, self.changing = make, n, changing
        self.followers: list[Follower] = []
        self.asked: list[list[int]] = []

    def each(self, work: Work, pieces: Sequence[Any], *, stay: bool) -> Iterator[tuple[int, Answer]]:
        if self.changing:
            self.end()
        self.followers = self.followers or [Follower(self.make) for _ in range(self.n)]
        for number, (follower, piece) in enumerate(zip(itertools.cycle(self.followers), pieces)):
            self.asked.append(piece)
            try:
                follower.piece(piece)
            except Exception as error:  # noqa: BLE001
                yield number, Answer(error=error)
            else:
                yield number, Answer()

    def end(self) -> None:
        for follower in self.followers:
            follower.end()
        self.followers = []


def followed(function: Any, pool: Pool) -> Any:
    work = Work(make="", setup={}, folder=Path())
    try:
        with elsewhere(Followed(pool, work)):  # pyright: ignore[reportArgumentType]
            return function()
    finally:
        pool.end()


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("changing", [False, True])
def test_every_piece_is_computed_once_and_by_a_follower(tmp_path, n, changing) -> None:
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    alone.mkdir(), spread.mkdir()
    expected = in_two_steps(alone)
    pool = Pool(lambda: in_two_steps(spread), n, changing=changing)
    assert followed(lambda: in_two_steps(spread), pool) == expected == [60, 61, 62]
    assert pool.asked == [[call, 3, i] for call in (0, 1) for i in range(3)]
    assert sorted((spread / "computed").read_text().split()) == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_pieces_of_pieces_are_of_the_piece() -> None:
    """What a piece deals out itself runs in a row where the piece does."""
    seen: list[tuple[int, int]] = []

    def function() -> list[int]:
        def inner(i: int) -> int:
            return sum(each_of(lambda j: seen.append((i, j)) or j, range(2)))

        return list(each_of(inner, range(2)))

    pool = Pool(function, 1)
    assert followed(function, pool) == [1, 1]
    assert pool.asked == [[0, 2, 0], [0, 2, 1]]
    assert seen == 2 * [(0, 0), (0, 1), (1, 0), (1, 1)]  # nothing is kept: once there and once here


def test_what_a_piece_or_the_way_to_it_raises_is_raised() -> None:
    def failing() -> None:
        list(each_of(lambda i: 1 // i, range(2)))

    with pytest.raises(ZeroDivisionError):
        followed(failing, Pool(failing, 1))

    def never_there() -> None:
        raise DataError("no such row", "")

    for _ in range(2):  # asked again, too
        pool = Pool(never_there, 1)
        with pytest.raises(DataError, match="no such row"):
            followed(lambda: list(each_of(abs, range(2))), pool)


def test_a_follower_that_comes_to_other_pieces_says_so() -> None:
    with pytest.raises(ClusterError, match="other pieces than its driver: 3 pieces of call 0, here 2 of call 0"):
        followed(lambda: list(each_of(abs, range(3))), Pool(lambda: list(each_of(abs, range(2))), 1))
    with pytest.raises(ClusterError, match="through and is asked for a piece"):
        followed(lambda: list(each_of(abs, range(3))), Pool(lambda: None, 1))


def test_one_piece_stays_here() -> None:
    pool = Pool(lambda: None, 1)
    assert followed(lambda: list(each_of(abs, [-1])), pool) == [1]
    assert pool.asked == []


def test_a_follower_asked_for_what_lies_behind_it_says_so() -> None:
    def function() -> None:
        list(each_of(abs, range(2)))
        list(each_of(abs, range(2)))

    follower = Follower(function)
    follower.piece([1, 2, 0])
    with pytest.raises(ClusterError, match="2 pieces of call 0, here 2 of call 1"):
        follower.piece([0, 2, 0])
    follower.piece([1, 2, 1])
    follower.end()
