"""Persistence diagrams (ripser) and distances between them (persim).

Bars are `[n_bars 2]` arrays of (birth, death), finite, float64. The filtration is Vietoris-Rips without a
threshold: a threshold turns entropy into a count of bars.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import persim  # noqa: TID251  this file owns it
from jaxtyping import Float
from numpy import ndarray
from ripser import ripser  # noqa: TID251  this file owns it

from mechsteer.errors import ConfigError, ShapeError
from mechsteer.topology.gudhi_engine import gudhi_h1_bars, is_installed

Engine = Literal["ripser", "gudhi", "auto"]

# Untyped: persim's annotations include what it returns only when asked for the matching.
_bottleneck: Any = persim.bottleneck
_wasserstein: Any = persim.wasserstein


def h1_bars(distances: Float[ndarray, "n_points n_points"], engine: Engine = "ripser") -> Float[ndarray, "n_bars 2"]:
    """Loops of the full Vietoris-Rips filtration over Z/2; empty below 4 points.

    ripser computes in float32; `engine="gudhi"` (the extra `mechsteer[gudhi]`) in float64 and about twice as fast;
    "auto" is GUDHI where it is installed, and ripser elsewhere. The diagonal must be 0 (otherwise ripser turns to sparse matrices and loses zero-length edges).
    Raises ShapeError, ConfigError (an engine that there is not, or that is not installed).
    """
    if engine not in get_args(Engine):
        raise ConfigError(f"engine is {engine!r}.", 'use "ripser", "gudhi" (an extra) or "auto".')
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or np.diagonal(distances).any():
        raise ShapeError(
            f"distances have shape {list(distances.shape)}; a square matrix with a zero diagonal is needed.",
            "pass the distances of one trajectory, not its points.",
        )
    if len(distances) < 4:
        return np.empty((0, 2))
    if engine == "gudhi" or (engine == "auto" and is_installed()):
        return gudhi_h1_bars(distances)
    bars = ripser(distances, maxdim=1, distance_matrix=True)["dgms"][1]
    return np.asarray(bars, dtype=np.float64).reshape(-1, 2)


def bottleneck(first: Float[ndarray, "n_bars 2"], second: Float[ndarray, "m_bars 2"]) -> float:
    """Bottleneck distance of two diagrams: the largest L∞ move of the best matching (bars may go to the diagonal)."""
    first, second = _finite(first), _finite(second)
    if len(first) and len(second):
        return float(_bottleneck(first, second))
    return float(_to_diagonal(first, second).max(initial=0.0))


def wasserstein(first: Float[ndarray, "n_bars 2"], second: Float[ndarray, "m_bars 2"]) -> float:
    """1-Wasserstein distance with Euclidean moves (persim's); an unmatched bar moves lifetime / √2."""
    first, second = _finite(first), _finite(second)
    if len(first) and len(second):
        return float(_wasserstein(first, second))
    return float(_to_diagonal(first, second).sum() * np.sqrt(2))


def betti_curve(bars: Float[ndarray, "n_bars 2"], radii: Float[ndarray, " n_radii"]) -> Float[ndarray, " n_radii"]:
    """How many bars [birth, death) are alive at each radius.

    For H0 add 1: the component that never dies is no bar here.

    >>> betti_curve(np.array([[0.0, 2.0], [1.0, 3.0]]), np.array([0.5, 1.5, 2.0, 3.0])).tolist()
    [1, 2, 1, 0]
    """
    births, deaths = _finite(bars).T
    radii = np.asarray(radii)
    return ((births[:, None] <= radii) & (radii < deaths[:, None])).sum(0)


def persistence_image(
    bars: Float[ndarray, "n_bars 2"],
    *,
    birth_range: tuple[float, float],
    persistence_range: tuple[float, float],
    pixel_size: float,
) -> Float[ndarray, "n_births n_persistences"]:
    """Persistence image (Adams et al. 2017): Gaussians of unit variance weighted by persistence, on a fixed grid.

    The grid is an argument, so that the images of different trajectories can be compared.
    """
    imager: Any = persim.PersistenceImager(birth_range=birth_range, pers_range=persistence_range, pixel_size=pixel_size)
    return imager.transform(_finite(bars), skew=True)


def landscape(
    bars: Float[ndarray, "n_bars 2"], *, start: float, stop: float, n_steps: int = 100, depth: int = 3
) -> Float[ndarray, "depth n_steps"]:
    """The first `depth` persistence landscapes (Bubenik 2015) on n_steps radii from `start` to `stop`.

    λ_k(r) is the k-th largest of max(0, min(r - birth, death - r)) over the bars.

    >>> landscape(np.array([[0.0, 2.0]]), start=0, stop=2, n_steps=3, depth=2).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    births, deaths = _finite(bars).T
    radii = np.linspace(start, stop, n_steps)
    tents = np.maximum(np.minimum(radii - births[:, None], deaths[:, None] - radii), 0.0)
    padded = np.concatenate([tents, np.zeros((depth, n_steps))])
    return -np.sort(-padded, axis=0)[:depth]


def draw_diagrams(
    diagrams: Mapping[str, Float[ndarray, "n_bars 2"]], axes: Any, *, span: tuple[float, float], style: Any = "default"
) -> None:
    """persim's persistence diagram of named bars (birth, death) on matplotlib `axes`, with the diagonal.

    `span`: of both axes, so that several can be compared. persim sets matplotlib's style for the whole process:
    `style` is what it sets; restore it with `matplotlib.rc_context`.
    """
    shown = {name: _finite(bars) for name, bars in diagrams.items()}
    if not any(len(bars) for bars in shown.values()):
        axes.plot(span, span, "--", color="black")
        axes.set(xlim=span, ylim=span, aspect="equal")
        axes.text(sum(span) / 2, sum(span) / 2, "no bars", ha="center", va="bottom")
        return
    persim.plot_diagrams(
        list(shown.values()), labels=list(shown), xy_range=[*span, *span], colormap=style, ax=axes, show=False
    )


def _finite(bars: Float[ndarray, "n_bars 2"]) -> Float[ndarray, "n_bars 2"]:
    bars = np.asarray(bars, dtype=np.float64)
    if bars.size and (bars.ndim != 2 or bars.shape[1] != 2):
        raise ShapeError(f"bars have shape {list(bars.shape)}; [n_bars 2] (birth, death) is needed.")
    bars = bars.reshape(-1, 2)
    return bars[np.isfinite(bars).all(1)]


def _to_diagonal(first: ndarray, second: ndarray) -> Float[ndarray, " n_bars"]:
    """L∞ moves to the diagonal of all bars: half their lifetimes. persim warns on empty diagrams."""
    both = np.concatenate([first, second])
    return (both[:, 1] - both[:, 0]) / 2
