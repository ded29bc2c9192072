"""Halving: who answers which items, who is left, and that the best one is found."""

import math

import numpy as np
import pytest

from mechsteer.errors import DataError
from mechsteer.evaluation import halve


def asked_of(means, log):
    def ask(i, start, end):
        log.append((i, start, end))
        return np.full(end - start, means[i])

    return ask


def test_the_better_half_goes_on_until_one_is_left():
    log: list[tuple[int, int, int]] = []
    best, tried = halve(9, 100, asked_of([0.1 * i for i in range(9)], log))
    assert best == 8
    assert [t.n_items for t in tried] == [25, 25, 25, 25, 25, 50, 50, 75, 75]
    assert [t.score for t in tried] == pytest.approx([0.1 * i for i in range(9)])
    assert {(start, end) for _, start, end in log} == {(0, 25), (25, 50), (50, 75)}
    _, tried = halve(9, 100, asked_of([0.1 * i for i in range(9)], []), whole=True)
    assert tried[8].n_items == 100


def test_the_last_part_decides_among_all_who_are_left():
    best, tried = halve(40, 8, lambda i, start, end: np.full(end - start, float(i == 31)), parts=2)
    assert best == 31
    assert max(t.n_items for t in tried) == 8


def test_of_equal_ones_the_first_stays_and_a_single_one_is_not_asked():
    assert halve(3, 10, lambda i, start, end: np.zeros(end - start))[0] == 0
    log: list[tuple[int, int, int]] = []
    best, (only,) = halve(1, 10, asked_of([1.0], log))
    assert (best, log, only.n_items) == (0, [], 0)
    assert math.isnan(only.score)


def test_fewer_items_than_parts():
    best, tried = halve(4, 2, lambda i, start, end: np.full(end - start, float(i == 2)))
    assert best == 2
    assert [t.n_items for t in tried] == [2, 1, 2, 1]


@pytest.mark.parametrize(("n", "items"), [(0, 3), (3, 0)])
def test_nothing_to_choose_from(n, items):
    with pytest.raises(DataError, match=f"{n} candidates on {items} items"):
        halve(n, items, lambda *_: [])
