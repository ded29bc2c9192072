"""Which points a bar is about: the edges of the spanning tree (H0), and a cycle for each loop (H1).

The Rips filtration orders edges by length (ties by their points) and gives a triangle the place of its longest edge.
Reducing the triangles' boundaries over Z/2 in this order, each reduced column that is left is a cycle whose longest edge
is the one that gave birth to a loop, and the triangle is where it dies (Edelsbrunner, Letscher & Zomorodian 2002). So
the column is a representative of that bar: it is there at birth and a boundary at death. Representatives are not unique.

Columns are Python integers, one bit per edge: fit for pictures (64 points), not for many trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from mechsteer.errors import ShapeError
from mechsteer.results import Result

MOST_POINTS = 160  # 670,000 triangles: some seconds


@dataclass(frozen=True, kw_only=True)
class Loop(Result):
    """One H1 bar with a cycle that represents it."""

    birth: float
    death: float
    edges: Int[ndarray, "n_edges 2"]
    """pairs of points; every point has an even number of them"""

    @property
    def lifetime(self) -> float:
        return self.death - self.birth


def spanning_tree(distances: Float[ndarray, "n_points n_points"]) -> Int[ndarray, "n_edges 2"]:
    """The edges of the minimum spanning tree, the shortest first: an H0 bar dies at the length of each.

    >>> spanning_tree(np.abs(np.subtract.outer([0.0, 5.0, 1.0], [0.0, 5.0, 1.0]))).tolist()
    [[0, 2], [1, 2]]
    """
    pairs, _ = _edges(distances)
    parent = np.arange(len(distances))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    kept = []
    for i, j in pairs.tolist():
        first, second = root(i), root(j)
        if first != second:
            parent[first] = second
            kept.append((i, j))
    return np.array(kept, dtype=np.int64).reshape(-1, 2)


def loops(distances: Float[ndarray, "n_points n_points"], most: int | None = None) -> tuple[Loop, ...]:
    """The H1 bars of the full Vietoris-Rips filtration with a cycle each, the longest-lived first; at most `most`.

    Raises ShapeError (not square, more than 160 points).
    """
    pairs, lengths = _edges(distances)
    n = len(distances)
    place = np.zeros((n, n), dtype=np.int64)
    place[pairs[:, 0], pairs[:, 1]] = place[pairs[:, 1], pairs[:, 0]] = np.arange(len(pairs))
    columns: dict[int, int] = {}
    found: list[Loop] = []
    missing = len(pairs) - (n - 1)  # edges that join nothing: each gives birth to a loop
    for youngest, others in _triangles(place):
        column = (1 << youngest) | (1 << others[0]) | (1 << others[1])
        while column and (top := column.bit_length() - 1) in columns:
            column ^= columns[top]
        if not column:
            continue
        columns[column.bit_length() - 1] = column
        birth, death = lengths[column.bit_length() - 1], lengths[youngest]
        if death > birth:
            found.append(Loop(birth=float(birth), death=float(death), edges=pairs[_bits(column)]))
        missing -= 1
        if not missing:
            break
    found.sort(key=lambda loop: -loop.lifetime)
    return tuple(found[:most])


def _edges(distances: ndarray) -> tuple[Int[ndarray, "n_edges 2"], Float[ndarray, " n_edges"]]:
    """All pairs of points in the order of the filtration, and their lengths."""
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or len(distances) > MOST_POINTS:
        raise ShapeError(
            f"distances have shape {list(distances.shape)}; a square matrix of at most {MOST_POINTS} points is needed.",
            "pass the distances of one trajectory; resample a longer one.",
        )
    first, second = np.triu_indices(len(distances), 1)
    lengths = distances[first, second]
    order = np.argsort(lengths, kind="stable")
    return np.column_stack([first, second])[order], lengths[order]


def _triangles(place: Int[ndarray, "n_points n_points"]) -> list[tuple[int, list[int]]]:
    """(its youngest edge, the two others) of every triangle, in the order of the filtration."""
    n = len(place)
    if n < 3:
        return []
    i, j = np.triu_indices(n, 1)
    sides = [np.empty((0, 3), dtype=np.int64)]
    for k in range(2, n):
        below = j < k
        sides.append(np.column_stack([place[i[below], j[below]], place[i[below], k], place[j[below], k]]))
    every = np.sort(np.concatenate(sides), axis=1)[:, ::-1]
    order = np.lexsort((every[:, 2], every[:, 1], every[:, 0]))
    return [(row[0], row[1:]) for row in every[order].tolist()]


def _bits(column: int) -> list[int]:
    found = []
    while column:
        top = column.bit_length() - 1
        found.append(top)
        column ^= 1 << top
    return found
