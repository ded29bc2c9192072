"""What is known of a text without the model, as columns for a regression: curves, steps, categories, token counts.

A number enters as a natural cubic spline (Hastie, Tibshirani & Friedman 2009, eq. 5.4 and 5.5),

    x,  d_j(x) − d_{K−1}(x),   d_j(x) = ((x − t_j)³₊ − (x − t_K)³₊) / (t_K − t_j),   j = 1 … K − 2,

K knots t at quantiles, linear beyond the outer ones; a number of few values as one indicator per value. A relation
that is no straight line (short and long texts wrong, those between right) is then no sign of anything else.
Everything is fitted on the rows of `train` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from mechsteer.errors import NonFiniteError, ShapeError

N_KNOTS = 6
FEW = 6  # a number of at most so many values is a category
MANY = 8  # a table of more columns enters as it is: it is made for a linear reading
ROWS_PER_COLUMN = 10  # fewer knots where there are few rows


@dataclass(frozen=True)
class TokenCounts:
    """A bag of tokens: log(1 + count) of the `n_most` tokens that occur in most training rows.

    `rows[i]` are the token ids (or words) of sample i.
    """

    rows: Sequence[Sequence[object]]
    n_most: int = 64

    def columns(self, train: Bool[ndarray, " n_samples"]) -> Float[ndarray, "n_samples n_columns"]:
        """Counts of the tokens chosen on `train`, for all rows."""
        spread = Counter(token for row, seen in zip(self.rows, train, strict=True) if seen for token in set(row))
        kept = sorted(spread, key=lambda token: (-spread[token], repr(token)))[: self.n_most]
        place = {token: i for i, token in enumerate(kept)}
        counts = np.zeros((len(self.rows), len(kept)))
        for i, row in enumerate(self.rows):
            for token in row:
                if token in place:
                    counts[i, place[token]] += 1
        return np.log1p(counts)


Known = ndarray | TokenCounts


def checked(name: str, values: object, n_samples: int) -> Known:
    """`values` as `columns` takes them. Raises ShapeError, NonFiniteError by the name of the baseline."""
    if isinstance(values, TokenCounts):
        if len(values.rows) != n_samples:
            raise ShapeError(
                f"baseline {name!r} has the tokens of {len(values.rows)} texts for {n_samples} samples.",
                "one sequence of tokens per sample.",
            )
        return values
    array = np.asarray(values)
    if array.ndim not in (1, 2) or len(array) != n_samples:
        raise ShapeError(
            f"baseline {name!r} has shape {list(array.shape)} for {n_samples} samples.",
            "one number, string or row of numbers per sample.",
        )
    if array.dtype.kind in "OUS":
        return array.reshape(n_samples, -1)
    array = array.reshape(n_samples, -1).astype(np.float64)
    if not np.isfinite(array).all():
        raise NonFiniteError(f"baseline {name!r} holds NaN or infinity.", "leave out rows that have no value.")
    return array


def columns(values: Known, train: Bool[ndarray, " n_samples"]) -> Float[ndarray, "n_samples n_columns"]:
    """Columns of one baseline for all rows, fitted on the rows of `train`.

    Strings (the first column of a table of them) and numbers of few values become indicators, other numbers
    splines; a table of more than eight columns stays as it is. What does not vary on `train` is one column of zeros.
    """
    made = _columns(values, train)
    return made if made.shape[1] else np.zeros((len(made), 1))


def _columns(values: Known, train: ndarray) -> ndarray:
    if isinstance(values, TokenCounts):
        return values.columns(train)
    if values.dtype.kind in "OUS":
        return indicators(values[:, 0], train)
    if values.shape[1] > MANY:
        return values
    return np.column_stack([curve(column, train) for column in values.T])


def indicators(values: Float[ndarray, " n_samples"], train: Bool[ndarray, " n_samples"]) -> ndarray:
    """One column per value of `train` but its commonest, to which values that it never saw are counted.

    >>> indicators(np.array([1, 2, 2, 3]), np.array([True, True, True, False])).T.tolist()
    [[1.0, 0.0, 0.0, 0.0]]
    """
    found, counts = np.unique(values[train], return_counts=True)
    return (values[:, None] == np.delete(found, counts.argmax())).astype(np.float64)


def curve(values: Float[ndarray, " n_samples"], train: Bool[ndarray, " n_samples"]) -> ndarray:
    """A number as columns [n_samples n_columns] in which a smooth relation is linear.

    Indicators where `train` holds at most six values, else a natural cubic spline on six knots (fewer with fewer
    than ten rows for each); the columns are uncorrelated and of unit variance on `train`.
    """
    seen = values[train]
    if len(np.unique(seen)) <= FEW:
        return indicators(values, train)
    n_knots = int(np.clip(len(seen) // ROWS_PER_COLUMN, 2, N_KNOTS))
    basis = natural_spline(values, np.unique(np.quantile(seen, np.linspace(0, 1, n_knots))))
    basis = basis - basis[train].mean(0)
    # directions that do not vary on `train` (knots between two neighbouring values) are left out
    _, singular, rotation = np.linalg.svd(basis[train] / np.abs(basis[train]).max(0).clip(1e-300), full_matrices=False)
    kept = singular > 1e-8 * singular[0]
    scale = np.sqrt(len(seen)) / singular[kept]
    return (basis / np.abs(basis[train]).max(0).clip(1e-300)) @ rotation[kept].T * scale


def natural_spline(x: Float[ndarray, " n_samples"], knots: Float[ndarray, " n_knots"]) -> ndarray:
    """The basis of the module docstring without its constant, [n_samples n_knots - 1]; `knots` ascend.

    >>> natural_spline(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 3.0])).round(3).tolist()
    [[0.0, 0.0], [1.0, 0.333], [2.0, 2.167], [3.0, 5.0]]
    """
    low, span = knots[0], max(knots[-1] - knots[0], 1e-300)
    z, t = (x - low) / span, (knots - low) / span

    def d(j: int) -> ndarray:
        return (np.maximum(z - t[j], 0) ** 3 - np.maximum(z - t[-1], 0) ** 3) / (t[-1] - t[j])

    last = d(len(t) - 2) if len(t) > 2 else np.zeros_like(z)
    # in the units of x: the cubes are of (x − t) / span
    return np.column_stack([x, *((d(j) - last) * span**2 for j in range(len(t) - 2))])
