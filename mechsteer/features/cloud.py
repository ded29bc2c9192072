"""Unit vectors without groups: one projected normal cloud (w / ‖w‖, w Gaussian) with the mean and covariance of given ones.

Normalising changes mean and covariance of the Gaussian (an elongated cloud becomes two caps), so those of w are sought by
fixed-point iteration on one set of draws until w / ‖w‖ has the moments that are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

N_FIT, MOST_STEPS, CLOSE = 2000, 60, 0.01


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A projected normal distribution: w = z @ axes + mean, z standard normal [n_axes]."""

    n: int
    mean: Float[ndarray, " d"]
    axes: Float[ndarray, "n_axes d"]

    def draw(self, rng: np.random.Generator) -> Float[ndarray, "n d"]:
        """As many unit vectors as the cloud was made of."""
        return _projected(rng.standard_normal((self.n, len(self.axes))), self.mean, self.axes)


def one_cloud(units: Float[ndarray, "n d"], rng: np.random.Generator) -> Cloud:
    """The cloud with the mean and covariance of these unit vectors."""
    mean = units.mean(0)
    _, singular, axes = np.linalg.svd(units - mean, full_matrices=False)
    wanted = singular / np.sqrt(len(units))  # standard deviation along each axis
    axes, wanted = axes[wanted > 1e-9], wanted[wanted > 1e-9]
    z, centre, scale = rng.standard_normal((N_FIT, len(axes))), mean, wanted
    for _ in range(MOST_STEPS):
        drawn = _projected(z, centre, scale[:, None] * axes)
        had, at = ((drawn - drawn.mean(0)) @ axes.T).std(0), drawn.mean(0)
        scale, centre = scale * wanted / had, centre + mean - at
        size = np.sqrt(centre @ centre + scale @ scale)  # the size of w does not show in w / ‖w‖
        scale, centre = scale / size, centre / size
        if np.abs(wanted / had - 1).max(initial=0) < CLOSE and np.abs(mean - at).max() < CLOSE:
            break
    return Cloud(n=len(units), mean=centre, axes=scale[:, None] * axes)


def _projected(z: ndarray, mean: ndarray, axes: ndarray) -> ndarray:
    w = z @ axes + mean
    return w / np.linalg.norm(w, axis=1, keepdims=True)
