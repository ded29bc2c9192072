"""A trajectory on paper: its points on two principal components, with the spanning tree and cycles of its longest loops.

Tree, loops and their lengths are those of the full space; only where a point is drawn is a projection. Several
trajectories (before and after steering) share the components, those of all their points together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.results import Result
from mechsteer.signals.spanning import squared_distances
from mechsteer.topology.cycles import Loop, loops, spanning_tree
from mechsteer.topology.summaries import prepare
from mechsteer.topology.windows import resample

MOST = 96  # points drawn of one trajectory: longer ones are resampled


@dataclass(frozen=True, kw_only=True)
class TrajectoryMap(Result):
    """One trajectory in two dimensions, and the bars of its diagram with what they are about."""

    name: str
    points: Float[ndarray, "n_points 2"]
    tokens: tuple[str, ...]
    """of the points; empty where they are not known"""
    tree: Int[ndarray, "n_edges 2"]
    """the minimum spanning tree, the shortest edge first"""
    tree_lengths: Float[ndarray, " n_edges"]
    """in the full space: deaths of H0"""
    loops: tuple[Loop, ...]
    """the longest-lived H1 bars with a cycle each"""
    explained: float
    """share of the variance of all points that the two components hold"""


def trajectory_maps(
    trajectories: Mapping[str, Tensor],
    tokens: Mapping[str, Sequence[str]] | None = None,
    *,
    n_loops: int = 2,
) -> tuple[TrajectoryMap, ...]:
    """A map of each trajectory [n_points d_model] by name, all on the same two components.

    Of more than 96 points, 96 evenly spread ones are drawn. Raises DataError (no trajectory, tokens that are not as
    many as points), and what `prepare` raises.
    """
    if not trajectories:
        raise DataError("there is no trajectory to draw.", "pass at least one by name.")
    clouds, texts = {}, {}
    for name, points in trajectories.items():
        cloud = prepare(points).double()
        said = list((tokens or {}).get(name, ()))
        if said and len(said) != len(cloud):
            raise DataError(f"{name!r} has {len(cloud)} points and {len(said)} tokens.", "give a token per point.")
        rows = resample(torch.arange(len(cloud))[:, None], min(MOST, len(cloud)))[:, 0]
        clouds[name], texts[name] = cloud[rows], tuple(said[i] for i in rows.tolist()) if said else ()
    every = torch.cat(list(clouds.values()))
    centre = every.mean(0)
    _, singular, rotation = torch.linalg.svd(every - centre, full_matrices=False)
    axes = torch.zeros(2, every.shape[1], dtype=torch.float64)
    axes[: min(2, len(rotation))] = rotation[:2]
    total = float(singular.square().sum())
    explained = float(singular[:2].square().sum()) / total if total > 0 else float("nan")
    return tuple(
        _map(name, cloud, ((cloud - centre) @ axes.T).numpy(), texts[name], n_loops, explained)
        for name, cloud in clouds.items()
    )


def _map(
    name: str, cloud: Tensor, points: ndarray, tokens: tuple[str, ...], n_loops: int, explained: float
) -> TrajectoryMap:
    distances = np.sqrt(squared_distances(cloud))
    tree = spanning_tree(distances)
    return TrajectoryMap(
        name=name,
        points=points,
        tokens=tokens,
        tree=tree,
        tree_lengths=distances[tree[:, 0], tree[:, 1]],
        loops=loops(distances, most=n_loops),
        explained=explained,
    )
