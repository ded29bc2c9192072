"""Betti curves, landscapes and persistence images of two kinds of trajectories, means beside their permutation null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mechsteer.results import Result
from mechsteer.topology import betti_curve, landscape, permuted_within, persistence_image

N_RADII = 60
N_PIXELS = 20


@dataclass(frozen=True, kw_only=True)
class CurvePair(Result):
    """A curve of the diagram, mean over the trajectories of either kind."""

    matching: str
    name: str
    """Betti curve of H0, first landscape of H1, ..."""
    radii: Float[ndarray, " n_radii"]
    first: Float[ndarray, " n_radii"]
    second: Float[ndarray, " n_radii"]
    null_low: Float[ndarray, " n_radii"]
    """of first − second with kinds permuted within problems, the central 95 % at each radius"""
    null_high: Float[ndarray, " n_radii"]
    p_value: float
    """of the largest |first − second| over all radii"""


@dataclass(frozen=True, kw_only=True)
class ImagePair(Result):
    """Mean persistence images of H1, of either kind, on one grid."""

    matching: str
    births: tuple[float, float]
    persistences: tuple[float, float]
    first: Float[ndarray, "n_births n_persistences"]
    second: Float[ndarray, "n_births n_persistences"]


def curve_pairs(
    matching: str,
    dimension: str,
    bars: Sequence[Float[ndarray, "n_bars 2"]],
    kind: ndarray,
    groups: ndarray,
    n_permutations: int,
    seed: int,
) -> list[CurvePair]:
    """The Betti curve of a dimension (its component that never dies counted in H0), and of H1 the first landscape."""
    reach = max((float(each[:, 1].max(initial=0.0)) for each in bars), default=0.0) or 1.0
    radii = np.linspace(0.0, 1.05 * reach, N_RADII)
    plus = 1 if dimension == "H0" else 0
    tables = {f"Betti curve of {dimension}": np.stack([betti_curve(each, radii) + plus for each in bars])}
    if dimension == "H1":
        ends = {"start": 0.0, "stop": float(radii[-1]), "n_steps": N_RADII}
        tables["first landscape of H1"] = np.stack([landscape(each, depth=1, **ends)[0] for each in bars])
    drawn = permuted_within(kind, groups, n_permutations, seed)
    return [_pair(matching, name, radii, table.astype(float), kind, drawn) for name, table in tables.items()]


def _pair(matching: str, name: str, radii: ndarray, table: ndarray, kind: ndarray, drawn: ndarray) -> CurvePair:
    draws = _difference(table, drawn)
    found = _difference(table, kind[None])[0]
    low, high = np.quantile(draws, [0.025, 0.975], axis=0) if len(draws) else np.full((2, len(radii)), np.nan)
    reached = (np.abs(draws).max(1) >= np.abs(found).max() - 1e-12).sum()
    return CurvePair(
        matching=matching,
        name=name,
        radii=radii,
        first=table[kind].mean(0),
        second=table[~kind].mean(0),
        null_low=low,
        null_high=high,
        p_value=float((1 + reached) / (1 + len(draws))) if len(draws) else float("nan"),
    )


def image_pair(matching: str, bars: Sequence[Float[ndarray, "n_bars 2"]], kind: ndarray) -> ImagePair:
    """Persistence images on a common grid; its unit of length, in which the Gaussians have variance 1, is a pixel."""
    every = np.concatenate([np.empty((0, 2)), *bars])
    most_birth = float(every[:, 0].max(initial=0.0)) or 1.0
    most_life = float((every[:, 1] - every[:, 0]).max(initial=0.0)) or 1.0
    pixel = max(most_birth, most_life) / N_PIXELS
    size = N_PIXELS, N_PIXELS
    images = [
        persistence_image(each / pixel, birth_range=(0.0, size[0]), persistence_range=(0.0, size[1]), pixel_size=1.0)
        if len(each)
        else np.zeros(size)
        for each in bars
    ]
    stacked = np.stack(images)
    span = (0.0, N_PIXELS * pixel)
    return ImagePair(
        matching=matching, births=span, persistences=span, first=stacked[kind].mean(0), second=stacked[~kind].mean(0)
    )


def _difference(table: Float[ndarray, "n_traces n_radii"], kinds: ndarray) -> Float[ndarray, "n_draws n_radii"]:
    first, second = kinds.astype(float), (~kinds).astype(float)
    return first @ table / first.sum(1, keepdims=True) - second @ table / second.sum(1, keepdims=True)
