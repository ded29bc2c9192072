"""How far apart the diagrams of two kinds of trajectories are, beside the same with kinds permuted.

The statistic is the energy distance (Székely & Rizzo 2013) over any distance d of diagrams, here bottleneck or
Wasserstein, between kinds R and W:

    E = 2 · mean d(R, W) − mean d(R, R) − mean d(W, W),

means over pairs of different trajectories (so that E is 0 on average where kinds do not differ). Under the hypothesis
that within a problem the kinds could as well have been given in any other order, permuting them within problems gives
draws of E that the real one is one of: p = (1 + draws ≥ E) / (1 + draws), exact at every sample size. With the two
members of a pair (before and after) as a "problem" the permutation is a swap; the distance between members of one pair
is the same in every draw and is left out of the mean (`paired`), or E would not be 0 on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from mechsteer.errors import ConfigError, DataError, ShapeError
from mechsteer.results import Interval, Result
from mechsteer.topology.persistence import bottleneck, wasserstein

DiagramDistance = Literal["bottleneck", "wasserstein"]
DISTANCES: dict[DiagramDistance, Any] = {"bottleneck": bottleneck, "wasserstein": wasserstein}
ROUNDING = 1e-5  # of the mean distance: activations are float32, a smaller difference of E is none


@dataclass(frozen=True, kw_only=True)
class DiagramGap(Result):
    """The energy distance of two kinds of trajectories and its permutation null. Undefined values are nan."""

    distance: str
    """bottleneck, wasserstein"""
    between: float
    """mean distance of a trajectory of one kind and one of the other"""
    within: float
    """mean distance of two of one kind (mean of both kinds)"""
    gap: float
    """E = 2 (between − within), in units of distance between points"""
    null: Interval
    """mean and central 95 % of E with kinds permuted within problems"""
    p_value: float
    """one-sided; nan where no problem holds both kinds"""
    n_first: int
    n_second: int
    n_mixed_groups: int
    """that hold both kinds: what the null rests on"""


def distance_matrix(
    diagrams: Sequence[Float[ndarray, "n_bars 2"]], distance: DiagramDistance = "wasserstein"
) -> Float[ndarray, "n_diagrams n_diagrams"]:
    """Distances of every pair of diagrams, symmetric with a zero diagonal. Raises ConfigError for another distance."""
    if distance not in DISTANCES:
        raise ConfigError(f"distance is {distance!r}.", f"use one of {list(DISTANCES)}.")
    measure = DISTANCES[distance]
    found = np.zeros((len(diagrams), len(diagrams)))
    for i in range(len(diagrams)):
        for j in range(i):
            found[i, j] = found[j, i] = measure(diagrams[i], diagrams[j])
    return found


def diagram_gap(
    distances: Float[ndarray, "n_traces n_traces"],
    first: Bool[ndarray, " n_traces"],
    groups: ndarray,
    *,
    distance: str = "",
    paired: bool = False,
    n_permutations: int = 999,
    seed: int = 0,
) -> DiagramGap:
    """The gap between the trajectories that are `first` and the others, `groups` naming each one's problem (or pair).

    `paired`: every group is a pair with one member of each kind.

    Raises ShapeError, DataError (fewer than two of a kind, groups that are no pairs).
    """
    kinds, named = np.asarray(first, dtype=bool), np.asarray(groups)
    if distances.shape != (len(kinds), len(kinds)) or named.shape != kinds.shape:
        raise ShapeError(
            f"distances {list(distances.shape)}, kinds {list(kinds.shape)}, groups {list(named.shape)} do not fit.",
            "one kind and one group per diagram.",
        )
    if min(kinds.sum(), (~kinds).sum()) < 2:
        raise DataError(
            f"there are {int(kinds.sum())} trajectories of one kind and {int((~kinds).sum())} of the other.",
            "two of each are needed: take more traces.",
        )
    clusters = np.unique(named, return_inverse=True)[1]
    n_mixed = int((np.bincount(clusters, kinds) * np.bincount(clusters, ~kinds) > 0).sum())
    if paired and not (len(kinds) == 2 * n_mixed == 2 * (clusters.max() + 1)):
        raise DataError(
            f"{len(kinds)} trajectories in {clusters.max() + 1} groups are no pairs.",
            "give one of each kind per group.",
        )
    own = distances[clusters[:, None] == clusters].sum() / 2 if paired else 0.0
    n_own = n_mixed if paired else 0
    between, within, gap = (float(part[0]) for part in _energy(distances, kinds[None], own, n_own))
    null, p_value = Interval(value=np.nan, low=np.nan, high=np.nan, n_undefined=1), float("nan")
    if n_mixed and n_permutations:
        draws = _energy(distances, permuted_within(kinds, clusters, n_permutations, seed), own, n_own)[2]
        null = Interval(value=float(draws.mean()), low=_quantile(draws, 0.025), high=_quantile(draws, 0.975))
        p_value = float((1 + (draws >= gap - ROUNDING * between).sum()) / (1 + len(draws)))
    return DiagramGap(
        distance=distance,
        between=between,
        within=within,
        gap=gap,
        null=null,
        p_value=p_value,
        n_first=int(kinds.sum()),
        n_second=int((~kinds).sum()),
        n_mixed_groups=n_mixed,
    )


def permuted_within(
    kinds: Bool[ndarray, " n_traces"], groups: ndarray, n_permutations: int, seed: int
) -> Bool[ndarray, "n_permutations n_traces"]:
    """The kinds in random order within each group."""
    rng = np.random.default_rng(seed)
    clusters = np.unique(groups, return_inverse=True)[1]
    by_group = np.argsort(clusters, kind="stable")
    permuted = np.empty((n_permutations, len(kinds)), dtype=bool)
    for row in permuted:
        row[by_group] = kinds[np.lexsort((rng.random(len(kinds)), clusters))]
    return permuted


def _energy(
    distances: ndarray, kinds: Bool[ndarray, "n_draws n_traces"], own: float, n_own: int
) -> tuple[ndarray, ndarray, ndarray]:
    """(between, within, E) of each row of kinds; `own` is the sum of `n_own` distances between kinds left out."""
    first, second = kinds.astype(float), (~kinds).astype(float)
    n, m = first.sum(1), second.sum(1)
    between = (((first @ distances) * second).sum(1) - own) / (n * m - n_own)
    within = ((first @ distances) * first).sum(1) / (n * (n - 1)) + ((second @ distances) * second).sum(1) / (
        m * (m - 1)
    )
    return between, within / 2, 2 * between - within


def _quantile(draws: ndarray, share: float) -> float:
    return float(np.quantile(draws, share))
