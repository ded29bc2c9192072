"""Spanning trees from float32 products, with a proof: what float32 leaves open is measured again.

For points a_i around any middle m, x_i = fl(a_i − m), G = fl(X Xᵀ) in float32, n_i = G_ii, the distances differ from
d²_ij = n_i + n_j − 2 G_ij by at most e_ij = c (n_i + n_j), u = 2⁻²⁴: γ_D |x_i| |x_j| for a product in any order of summation
(Higham 2002, eq. 3.5) twice, γ_D n_i for each norm, 4u (n_i + n_j) for rounding x and 8u for the sums. So U_ij = d²_ij + e_ij
is never too small and L_ij = U_ij − 2 e_ij never too large.

(All weights are halved in what follows, which rounds nothing.)

T is the minimum spanning tree of U. A pair with L_ij ≥ the largest U on T's path from i to j is a longest edge of a cycle
in truth as well, and a minimum spanning tree needs it not. T and the other pairs are measured from the points themselves,
and their minimum spanning tree is one of the cloud. In Prim's order the largest edge on the path between two points is the
largest one added behind the earlier of them, up to the later, so the test is a running maximum.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree
from threadpoolctl import ThreadpoolController
from torch import Tensor

UNIT = 2.0**-24  # rounding of float32
CHUNK_VALUES = 2**18  # float32 values of one buffer: 1 MB, which stay in a core's cache
MEASURED_VALUES = 2**17  # float32 values of one buffer of differences, which stay in a core's cache
SHARED_VALUES = 2**19  # of one, where others measure at the same time: longer calls wait less often for Python
SHARE_VALUES = 2**21  # of points, a thread's at least: with fewer it waits for longer than it works
SUMMED = 512  # squares that are summed up in float32
SAMPLED = 8  # points, about, that make the middle; squared norms are larger by about 1 / their number
NEAR = 1 / 4  # of their mean squared norm: a squared middle below is not subtracted
SPARE = 3  # pairs per point that are measured, at most; with more float64 is faster
LARGEST, SMALLEST = 2.0**100, 2.0**-60  # of a squared norm: between them nothing overflows or vanishes
SHORTEST = 2.0**-80  # of a squared length that float32 can sum up


def certified_edges(
    points: Float[Tensor, "batch n_points d_model"],
) -> tuple[Float[ndarray, "batch n_edges"], Bool[ndarray, " batch"]]:
    """(edge lengths of each cloud's minimum spanning tree in no order, in which clouds they are certified).

    Points are float32 or narrower, on the processor, at least two in a cloud. Lengths are right to 1e-6, mostly to 1e-7.
    Not certified, with nan for lengths, is a cloud that is not finite or whose squares leave float32, one with duplicates,
    and one in which float32 decides too little (near-duplicates, a point far from all others).

    Products and lengths are dealt to as many threads as torch has, if there is enough for them; Prim's steps are many short
    calls, which would only wait for Python there.
    """
    batch, n_points, d_model = points.shape
    clouds = points.float().contiguous().numpy()
    upper = np.empty((batch, n_points, n_points), np.float32)
    slack, certified = np.empty((batch, n_points), np.float32), np.empty(batch, bool)

    def bound(some: slice) -> None:
        _grams(clouds[some], upper[some])
        slack[some], certified[some] = _into_distances(upper[some], d_model)

    with _dealing(clouds.size) as deal:
        deal(bound, batch)
        left, right = near_pairs(upper, slack)
        certified &= np.bincount(left // n_points, minlength=batch) <= SPARE * n_points
        used = certified[left // n_points]
        left, right = left[used], right[used]
        squares = _squared_lengths(clouds.reshape(-1, d_model), left, right, deal)
    certified[left[squares < SHORTEST] // n_points] = False
    return _trees(left, right, squares, certified, n_points), certified


Deal = Callable[[Callable[[slice], None], int], None]
_DEALING = threading.Lock()  # how many threads a product has is the process's: one at a time changes it


@contextlib.contextmanager
def _dealing(n_values: int) -> Iterator[Deal]:
    """`deal(function, n)` calls function(slice) for parts of range(n): at once, on as many threads as torch has and the points'
    values fill, with products on one each. Shared out inside, products as small as these wait for each other.
    """
    if not _DEALING.acquire(blocking=False):
        yield lambda function, n: function(slice(0, n))
        return
    n_threads = min(torch.get_num_threads(), max(1, n_values // SHARE_VALUES))
    try:
        with _blas().limit(limits=1), ThreadPoolExecutor(n_threads) as pool:

            def deal(function: Callable[[slice], None], n: int) -> None:
                n_parts = min(n, n_threads)
                bounds = [n * i // n_parts for i in range(n_parts + 1)]
                own, *others = map(slice, bounds, bounds[1:])
                results = [pool.submit(function, other) for other in others]
                function(own)  # here: a processor that was busy until now gets no new thread at once
                for result in results:
                    result.result()

            yield deal
    finally:
        _DEALING.release()


@functools.cache
def _blas() -> ThreadpoolController:
    """numpy's product; looked for once, since that takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def near_pairs(
    upper: Float[ndarray, "batch n n"], slack: Float[ndarray, "batch n"]
) -> tuple[Int[ndarray, " n_pairs"], Int[ndarray, " n_pairs"]]:
    """Pairs (left, right), by number of the point in the whole batch and ascending, that may be in a minimum spanning tree of
    weights between upper − slack_i − slack_j and upper. The tree of `upper` is among them, and left is the later in it.
    """
    batch, n, _ = upper.shape
    rows, offsets = upper.reshape(batch * n, n), np.arange(batch) * n
    best = upper[:, 0].copy()
    best[:, 0] = np.inf
    inside = np.zeros_like(best)  # inf in the tree: as in `spanning.prim`
    margin = np.full_like(best, -np.inf)  # slack in the tree
    longest = np.full_like(best, -np.inf)  # edge since the point came into the tree, plus its slack
    inside[:, 0], margin[:, 0], longest[:, 0] = np.inf, slack[:, 0], slack[:, 0]
    flat_best, flat_inside, flat_margin, flat_longest = (a.reshape(-1) for a in (best, inside, margin, longest))
    flat_slack, limit, reached = slack.reshape(-1), np.empty_like(best), np.empty_like(best)
    edge, own = np.empty((batch, 1), upper.dtype), np.empty((batch, 1), upper.dtype)
    index, near = np.empty((n - 1, batch), np.intp), np.empty((n - 1, batch, n), bool)
    for at, is_near in zip(index, near, strict=True):
        best.argmin(axis=1, out=at)
        at += offsets
        flat_best.take(at, out=edge[:, 0], mode="clip")
        flat_slack.take(at, out=own[:, 0], mode="clip")
        rows.take(at, axis=0, out=reached, mode="clip")
        np.add(margin, edge, out=limit)
        np.maximum(longest, limit, out=longest)
        np.add(longest, own, out=limit)
        np.less(reached, limit, out=is_near)
        flat_inside[at], flat_longest[at], flat_margin[at] = np.inf, own[:, 0], own[:, 0]
        np.minimum(best, reached, out=best)
        np.maximum(best, inside, out=best)
    place, right = np.divmod(np.flatnonzero(near), n)  # flat: several times as fast as by three axes
    left, right = np.divmod(np.sort(index.reshape(-1)[place] * n + right), n)
    return left, right + left // n * n


def _grams(points: Float[ndarray, "batch n_points d_model"], out: Float[ndarray, "batch n_points n_points"]) -> None:
    """Products of the points around a middle: any does, and around 0, where that is near, no copy is made."""
    batch, n_points, d_model = points.shape
    step = max(1, n_points // SAMPLED)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is not certified
        sampled = points[:, step // 2 :: step]  # a text's first token is often unlike all others
        middles = sampled.mean(1, keepdims=True)
        squares = np.einsum("bnd,bnd->b", sampled, sampled) / sampled.shape[1]
        is_far = ~(np.einsum("bnd,bnd->b", middles, middles) < NEAR * squares)
        if not is_far.any():
            np.matmul(points, points.swapaxes(1, 2), out=out)  # which knows that half of X Xᵀ is the other half
            return
        middles[~is_far] = 0
        size = max(1, min(batch, CHUNK_VALUES // (n_points * d_model)))
        buffer = np.empty((size, n_points, d_model), np.float32)
        for start in range(0, batch, size):
            some = slice(start, start + size)
            x = np.subtract(points[some], middles[some], out=buffer[: len(points[some])])
            np.matmul(x, x.swapaxes(1, 2), out=out[some])


def _into_distances(
    grams: Float[ndarray, "batch n n"], d_model: int
) -> tuple[Float[ndarray, "batch n"], Bool[ndarray, " batch"]]:
    """(slack, in which clouds nothing overflows or vanishes), with U / 2 put in place of G: half of a squared distance lies
    between U_ij / 2 − slack_i − slack_j and U_ij / 2.
    """
    norms = np.diagonal(grams, axis1=1, axis2=2).copy()
    largest = norms.max(1)
    is_sound = (largest < LARGEST) & (largest > SMALLEST)  # so all products are finite, by Cauchy and Schwarz
    grams[~is_sound], norms[~is_sound] = 0, 0
    c = 2.2 * (d_model + 16) * UNIT
    spare = (1e-10 * norms.max(1))[:, None]  # more than what underflows
    halves = ((1 + c) * norms + spare) / 2
    np.subtract(halves[:, None, :], grams, out=grams)
    grams += halves[:, :, None]
    return (c + 8 * UNIT) * norms + spare, is_sound


def _squared_lengths(
    points: Float[ndarray, "n d_model"], left: Int[ndarray, " n_pairs"], right: Int[ndarray, " n_pairs"], deal: Deal
) -> Float[ndarray, " n_pairs"]:
    """Of pairs that ascend by their left points: nearly every point is one, so first ones are measured row by row."""
    squares, by_row, partner = np.empty(len(left)), np.empty(len(points)), np.arange(len(points))
    is_first = np.diff(left, prepend=-1) > 0
    partner[left[is_first]] = right[is_first]

    def measure(some: slice) -> None:
        rows = range(len(points))[some]
        n_values = MEASURED_VALUES if len(rows) == len(points) else SHARED_VALUES
        by_row[some] = _measured(points, rows, partner[some], n_values)

    deal(measure, len(points))
    squares[is_first] = by_row[left[is_first]]
    squares[~is_first] = _measured(points, left[~is_first], right[~is_first], MEASURED_VALUES)
    return squares


def _measured(
    points: Float[ndarray, "n d_model"],
    left: range | Int[ndarray, " n_pairs"],
    right: Int[ndarray, " n_pairs"],
    n_values: int,
) -> Float[ndarray, " n_pairs"]:
    """Squared lengths of pairs, from differences; float64, of sums of at most `SUMMED` squares in float32."""
    d_model = points.shape[1]
    size = max(1, min(len(right), n_values // d_model))
    buffer, squares = np.empty((size, d_model), np.float32), np.zeros(len(right))
    with np.errstate(over="ignore", invalid="ignore"):  # rows of clouds that are not certified
        for start in range(0, len(right), size):
            own, sums = left[start : start + size], squares[start : start + size]
            rows = points[own.start : own.stop] if isinstance(own, range) else points[own]
            gaps = points.take(right[start : start + size], axis=0, out=buffer[: len(own)], mode="clip")
            np.subtract(rows, gaps, out=gaps)
            for column in range(0, d_model, SUMMED):
                part = gaps[:, column : column + SUMMED]
                sums += np.matmul(part[:, None], part[:, :, None])[:, 0, 0]  # a product of BLAS for each row
    return squares


def _trees(
    left: ndarray, right: ndarray, squares: ndarray, certified: ndarray, n_points: int
) -> Float[ndarray, "batch n_edges"]:
    """Edge lengths of the minimum spanning tree of each certified cloud's pairs, which ascend by their left points."""
    batch, cloud = len(certified), left // n_points
    counts = np.bincount(cloud, minlength=batch)
    edges = np.full((batch, n_points - 1), np.nan)
    is_tree = certified & (counts == n_points - 1)
    edges[is_tree] = squares[is_tree[cloud]].reshape(-1, n_points - 1)
    others = certified & ~is_tree
    if others.any():  # one forest of all of them
        used, n = others[cloud], batch * n_points
        ends = np.cumsum(np.bincount(left[used], minlength=n))
        pairs = csr_array((squares[used], right[used], np.concatenate([[0], ends])), shape=(n, n))
        edges[others] = minimum_spanning_tree(pairs, overwrite=True).data.reshape(-1, n_points - 1)  # by row
    return np.sqrt(edges)
