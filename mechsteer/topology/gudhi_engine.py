"""H1 by GUDHI (optional extra `mechsteer[gudhi]`): the same bars as ripser's, sooner where there are many points.

Edges that no loop needs are collapsed first (Boissonnat & Pritam 2020), which leaves the diagram as it is; triangles
are made of the rest alone.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mechsteer.errors import ConfigError

try:
    import gudhi  # noqa: TID251  this file owns it
except ImportError:  # an optional extra: the error comes when it is asked for
    gudhi = None


def is_installed() -> bool:
    """Whether `engine="gudhi"` can be asked for."""
    return gudhi is not None


def gudhi_h1_bars(distances: Float[ndarray, "n_points n_points"]) -> Float[ndarray, "n_bars 2"]:
    """Loops of the full Vietoris-Rips filtration over Z/2 as (birth, death), zero-length bars left out.

    `distances` are square, finite and have a zero diagonal. Raises ConfigError where GUDHI is not installed.
    """
    if gudhi is None:
        raise ConfigError('engine="gudhi" needs GUDHI.', 'pip install "mechsteer[gudhi]", or use engine="ripser".')
    tree = gudhi.RipsComplex(distance_matrix=distances).create_simplex_tree(max_dimension=1)
    tree.collapse_edges(nb_iterations=1)
    tree.expansion(2)
    tree.compute_persistence(homology_coeff_field=2, min_persistence=0)
    bars = np.asarray(tree.persistence_intervals_in_dimension(1), dtype=np.float64).reshape(-1, 2)
    return bars[np.isfinite(bars).all(1)]
