"""The heights at which clouds of points merge into one: edge lengths of their minimum spanning trees.

On the processor by Prim's algorithm, batched (`mechsteer.signals.spanning`). Elsewhere its n steps would be n rounds of
small kernels, so the minimax distances are made by squaring, in log2(n) products of the (min, max) kind:

    u_ij = min over paths from i to j of the longest edge,    u ← min_k max(u_ik, u_kj)

u is an ultrametric, so the tree of the points up to i joins i by the edge min_{j<i} u_ij: the heights, ties included.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.signals.spanning import prim

PRODUCT_VALUES = 2**24  # numbers of one (min, max) product: 64 MB in float32


def merge_heights(distances: Float[Tensor, "batch n n"]) -> Float[Tensor, "batch n_edges"]:
    """n - 1 heights per cloud, in no order, of symmetric distances; infinite for points that are not there.

    Points that are not there are infinitely far from all others; the first of a cloud must be there.
    """
    if distances.device.type == "cpu":
        return torch.from_numpy(prim(distances.numpy()))
    return by_minimax(distances)


def by_minimax(distances: Float[Tensor, "batch n n"]) -> Float[Tensor, "batch n_edges"]:
    """`merge_heights` on any device."""
    n = distances.shape[-1]
    longest = distances.clone()
    longest.diagonal(dim1=1, dim2=2).fill_(0)
    size = max(1, PRODUCT_VALUES // n**3)
    for _ in range(math.ceil(math.log2(max(n - 1, 1)))):  # a path has at most n - 1 edges
        parts = [torch.maximum(u[:, :, None, :], u[:, None, :, :]).amin(-1) for u in longest.split(size)]
        longest = torch.cat(parts) if parts else longest
    before = torch.ones(n, n, dtype=torch.bool, device=distances.device).tril(-1)
    return torch.where(before, longest, math.inf).amin(-1)[:, 1:]
