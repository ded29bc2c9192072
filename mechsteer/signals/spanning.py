"""Minimum spanning trees of many small point clouds, and of a sliding window.

The finite H0 bars of a full Vietoris-Rips filtration are the edges of the Euclidean minimum spanning tree
(a component dies when the shortest edge joining it appears). So exact H0 needs n² distances and Prim's
algorithm, not a persistence engine.

Distances come from one centred float64 Gram product per cloud, d²_ij = G_ii + G_jj - 2 G_ij. The subtraction
cancels: its relative error is about 1e-15 · (G_ii + G_jj) / d²_ij, so pairs with d² below `NEAR` of that scale
are computed again from the difference of the points. Duplicates get a length of exactly 0. A float32 product
is faster, but activations are so anisotropic that its error in d is 1e-4 and more: many clouds of float32 go by it
where it can be certified (`mechsteer.signals.certified`), and the rest of them this way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.cluster.hierarchy import linkage
from torch import Tensor

from mechsteer.errors import DataError, NonFiniteError, ShapeError
from mechsteer.signals.certified import certified_edges

NEAR = 1e-7  # leaves a relative error of about 3e-8 in d for the pairs taken from the Gram product
MANY_VALUES, WIDE = 2**20, 256  # from so many values, and so wide ones, on float32 products are faster, proof included
CHUNK_VALUES = 2**18  # float64 values of one buffer: 2 MB, which stay in a core's cache


def mst_edges(
    points: Float[Tensor, "batch n_points d_model"] | Float[ndarray, "batch n_points d_model"],
    lengths: Tensor | ndarray | list[int] | None = None,
) -> Float[ndarray, "batch n_edges"]:
    """Euclidean edge lengths of each cloud's minimum spanning tree, ascending, float64, n_edges = n_points - 1.

    `lengths [batch]` are the numbers of real points; what lies behind is padding, is never read, and its edges
    are nan (at the end of the row). Any float dtype and device; computed on the CPU, right to 1e-6 for float32 and to
    1e-7 for float64.

    Raises ShapeError (not three axes, no points, lengths outside 1 … n_points), NonFiniteError.

    >>> mst_edges(np.array([[[0.0], [3.0], [1.0], [1.0]]])).tolist()
    [[0.0, 1.0, 2.0]]
    """
    cloud = torch.as_tensor(points).detach().cpu()
    if cloud.ndim != 3 or 0 in cloud.shape[1:]:
        raise ShapeError(
            f"points have shape {list(cloud.shape)}; [batch n_points d_model] with at least one point is needed.",
            "for one trajectory pass points[None]; an empty trajectory has no topology: leave it out.",
        )
    batch, n_points, _ = cloud.shape
    counts = _counts(lengths, batch, n_points)
    edges, certified = np.empty((batch, n_points - 1)), np.zeros(batch, dtype=bool)
    if _is_work_for_float32(cloud, counts):
        edges, certified = certified_edges(cloud)
    left = (~certified).nonzero()[0]
    if len(left):
        rest = cloud if len(left) == batch else cloud[torch.from_numpy(left)]
        edges[left] = np.sqrt(prim(_squared_distances(rest, [counts[i] for i in left], left).numpy()))
    edges.sort(axis=1)
    edges[np.isinf(edges)] = np.nan
    return edges


def squared_distances(points: Float[Tensor, "n_points d_model"]) -> Float[ndarray, "n_points n_points"]:
    """Squared Euclidean distances of one cloud, float64, accurate also for near-duplicates (0 for duplicates)."""
    cloud = torch.as_tensor(points).detach().cpu()[None]
    return _squared_distances(cloud, [cloud.shape[1]], [0])[0].numpy()


def lifetime_entropy(lifetimes: Float[ndarray, "*batch n_bars"]) -> tuple[ndarray, ndarray]:
    """(H, deficit) of each row's positive lifetimes, in nats; NaN and zeros are no bars.

    H = -Σ p ln p with p = l / Σ l; deficit = ln m - H = Σ p ln(p m) over the m positive bars, summed in this form
    because for high-dimensional clouds it is a small difference of large numbers. No bar: H = 0, deficit nan.

    >>> h, deficit = lifetime_entropy(np.array([1.0, 1.0, 0.0, 2.0]))
    >>> round(float(h), 4), round(float(deficit), 4)
    (1.0397, 0.0589)
    """
    lives = np.where(np.isnan(lifetimes), 0.0, lifetimes)
    n_bars = (lives > 0).sum(-1)
    p = lives / np.where(n_bars > 0, lives.sum(-1), 1.0)[..., None]
    terms = p * np.log(np.where(p > 0, p * n_bars[..., None], 1.0))
    deficit = np.maximum(terms.sum(-1), 0.0)
    entropy = np.maximum(np.log(np.maximum(n_bars, 1)) - deficit, 0.0)
    return entropy, np.where(n_bars > 0, deficit, np.nan)


class StreamingH0:
    """Exact H0 of the last `window` points, one new distance row per point.

    For use inside a generation, one object per row. Distances are differences in float64, so nothing is
    approximated; a push costs `window` distances and one spanning tree.

    >>> stream = StreamingH0(window=3)
    >>> [stream.push(np.array([x])).tolist() for x in (0.0, 1.0, 3.0, 10.0)]
    [[], [1.0], [1.0, 2.0], [2.0, 7.0]]
    >>> round(stream.entropy_nats, 4)
    0.5297
    """

    def __init__(self, window: int) -> None:
        if window < 2:
            raise DataError(f"a window of {window} points has no edges.", "use window >= 2, 32 … 64 is usual.")
        self.window = window
        self.lifetimes: Float[ndarray, " n_edges"] = np.empty(0)
        self._seen = 0
        self._points = np.empty((window, 0))
        self._distances = np.zeros((window, window))
        # Every pair once: the condensed order that scipy's single linkage reads.
        self._pairs = [np.triu_indices(n, 1) for n in range(window + 1)]

    def push(self, point: Float[Tensor, " d_model"] | Float[ndarray, " d_model"]) -> Float[ndarray, " n_edges"]:
        """Add one point and return the ascending lifetimes (zeros included) of the points now in the window.

        Raises ShapeError (not one axis, or another d_model than before), NonFiniteError.
        """
        new = torch.as_tensor(point).detach().to("cpu", torch.float64).numpy()
        if new.ndim != 1 or (self._seen and len(new) != self._points.shape[1]):
            raise ShapeError(
                f"a point has shape {list(new.shape)}; [d_model] is needed, the same for every push.",
                "push one row of one site; use one StreamingH0 per row of a batch.",
            )
        if not np.isfinite(new).all():
            raise NonFiniteError(f"point {self._seen} holds NaN or infinity.", "look at the model's dtype and scale.")
        if not self._seen:
            self._points = np.zeros((self.window, len(new)))
        # Slots are a ring: the spanning tree does not depend on the order of the points.
        slot, n_points = self._seen % self.window, min(self._seen + 1, self.window)
        self._points[slot] = new
        gaps = self._points[:n_points] - new
        row = np.sqrt(np.einsum("nd,nd->n", gaps, gaps))
        self._distances[slot, :n_points] = self._distances[:n_points, slot] = row
        self._seen += 1
        if n_points > 1:
            # Single linkage merges along the spanning tree's edges, zero lengths included.
            self.lifetimes = linkage(self._distances[self._pairs[n_points]], "single")[:, 2]
        return self.lifetimes

    @property
    def entropy_nats(self) -> float:
        """H0 persistent entropy of the window; 0 with fewer than two distinct points."""
        return float(lifetime_entropy(self.lifetimes)[0])


def _counts(lengths: Tensor | ndarray | list[int] | None, batch: int, n_points: int) -> list[int]:
    if lengths is None:
        return [n_points] * batch
    counts = torch.as_tensor(lengths)
    if counts.shape != (batch,) or counts.is_floating_point() or not ((counts > 0) & (counts <= n_points)).all():
        raise ShapeError(
            f"lengths are {counts.tolist()}; {batch} integers in 1 … {n_points} are needed.",
            "one count of real points per trajectory; an empty trajectory has no topology: leave it out.",
        )
    return counts.tolist()


def _is_work_for_float32(points: Tensor, counts: list[int]) -> bool:
    if points.dtype == torch.float64 or min(counts, default=0) < max(points.shape[1], 2):
        return False
    return points.shape[-1] >= WIDE and points.numel() >= MANY_VALUES


def _squared_distances(
    points: Tensor, counts: list[int], numbers: Sequence[int] | ndarray
) -> Float[Tensor, "batch n_points n_points"]:
    """float64; pairs with padding are infinite. `numbers` name the clouds."""
    padding = torch.arange(points.shape[1]) >= torch.tensor(counts)[:, None]
    distances = _centred_grams(points, padding)
    diagonal = distances.diagonal(dim1=1, dim2=2)
    norms = diagonal.clone()
    finite = norms.isfinite().all(1)
    if not bool(finite.all()):
        raise NonFiniteError(
            f"trajectory {numbers[int((~finite).nonzero()[0])]} holds NaN or infinity (or values whose squares overflow).",
            "padding must be given by `lengths`; otherwise look at the model's dtype and at the site.",
        )
    distances.mul_(-2).add_(norms[:, :, None]).add_(norms[:, None, :])
    if bool(padding.any()):
        distances.masked_fill_(padding[:, :, None] | padding[:, None, :], math.inf)
    diagonal.fill_(math.inf)
    suspects = distances.amin((1, 2)) <= 2 * NEAR * norms.amax(1)
    for i in suspects.nonzero()[:, 0].tolist():
        _recompute(points[i].double(), norms[i], distances[i])
    diagonal.fill_(0.0)
    return distances


def _centred_grams(points: Tensor, padding: Bool[Tensor, "batch n_points"]) -> Float[Tensor, "batch n_points n_points"]:
    """Gram matrices of the points around their middle, float64; those of padding are zero."""
    batch, n_points, d_model = points.shape
    grams = torch.empty(batch, n_points, n_points, dtype=torch.float64)
    size = max(1, min(batch, CHUNK_VALUES // (n_points * d_model)))
    buffer = torch.empty(size, n_points, d_model, dtype=torch.float64)
    ragged = padding.any(1).tolist()
    for start in range(0, batch, size):
        part = slice(start, min(start + size, batch))
        centred = buffer[: part.stop - start]
        centred.copy_(points[part])
        if any(ragged[part]):
            centred[padding[part]] = 0.0
            centred -= centred.sum(1, keepdim=True) / (~padding[part]).sum(1)[:, None, None]
            centred[padding[part]] = 0.0
        else:
            centred -= centred.mean(1, keepdim=True)
        torch.bmm(centred, centred.transpose(1, 2), out=grams[part])
    return grams


def _recompute(cloud: Float[Tensor, "n d_model"], norms: Float[Tensor, " n"], distances: Float[Tensor, "n n"]) -> None:
    """Squared distances of the near pairs from the points themselves, in place."""
    near = (distances <= NEAR * (norms[:, None] + norms)).triu(1)
    for pairs in near.nonzero().split(max(1, CHUNK_VALUES // cloud.shape[1])):
        left, right = pairs.T
        exact = (cloud[left] - cloud[right]).square().sum(1)
        distances[left, right] = distances[right, left] = exact


def prim(distances: Float[ndarray, "batch n_points n_points"]) -> Float[ndarray, "batch n_edges"]:
    """Edge weights of each matrix's minimum spanning tree, in Prim's order.

    The batch goes through the n - 1 steps together: `best` holds each outside point's distance to the tree,
    `inside` is infinite for points of the tree and 0 elsewhere. Every step works in place.
    """
    batch, n_points, _ = distances.shape
    rows = distances.reshape(batch * n_points, n_points)
    offsets = np.arange(batch) * n_points
    best = distances[:, 0].copy()
    best[:, 0] = np.inf
    inside = np.zeros_like(best)
    inside[:, 0] = np.inf
    flat_best, flat_inside = best.reshape(-1), inside.reshape(-1)
    reached, index = np.empty_like(best), np.empty(batch, np.intp)
    edges = np.empty((n_points - 1, batch), distances.dtype)
    for edge in edges:
        best.argmin(axis=1, out=index)
        index += offsets
        flat_best.take(index, out=edge, mode="clip")  # clip: without it numpy buffers `out`
        flat_inside[index] = np.inf
        rows.take(index, axis=0, out=reached, mode="clip")
        np.minimum(best, reached, out=best)
        np.maximum(best, inside, out=best)
    return np.ascontiguousarray(edges.T)
