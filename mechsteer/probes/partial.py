"""What a feature says about a label beside covariates, in log-odds per standard deviation.

Two logistic regressions, both with every covariate as a curve (`mechsteer.probes.columns`) and the jumps that the feature
or the label make along it (`_jumps`):

- over all rows, P(y = 1) = σ(β x + γ·z + a);
- **within groups**, where whatever is the same for a whole group (its difficulty) has dropped out: of each pair of a
  positive and a negative row of one group, P(it is this way round) = σ(β (x⁺ − x⁻) + γ·(z⁺ − z⁻)). This is the
  conditional likelihood (Chamberlain 1980) for groups of two and its pairwise form (Liang 1987) beyond; every group
  counts its pairs divided by its rows, so that a group of many samples is no more than it is.

Intervals are those of the sandwich estimator over groups (Liang & Zeger 1986) with Student's t on the number of groups
less that of the columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.stats import t as student

from mechsteer.errors import DataError
from mechsteer.probes.columns import FEW, checked, columns
from mechsteer.probes.scores import checked_rows, two_classes
from mechsteer.results import Interval, Result

MOST_PAIRS = 32  # of one group: a group of many samples is drawn from
PENALTY = (
    0.1  # a prior of variance 10 on covariates: a step onto one class alone would make its own coefficient infinite
)
MOST_JUMPS, MOST_PLACES = 8, 200
LEAST_BEHIND = 5  # rows on either side of a jump
SURE = 8.0  # F of a jump at its best place: one too many costs less than one that is missed


@dataclass(frozen=True, kw_only=True)
class PartialEffect(Result):
    """Logistic regression coefficient of a feature, in log-odds per standard deviation. Undefined values are nan."""

    effect: Interval
    """beside the covariates"""
    alone: Interval
    """without the covariates"""
    within: Interval
    """beside the covariates, among rows of one group only"""
    covariates: dict[str, int]
    """columns that each covariate became"""
    dropped: tuple[str, ...]
    """covariates that do not vary"""
    n_samples: int
    n_groups: int
    n_mixed_groups: int
    """that hold both labels: what the value within groups rests on"""


def partial_effect(
    feature: Float[ndarray, " n_samples"],
    y: ndarray,
    covariates: Mapping[str, ndarray],
    groups: ndarray,
    *,
    confidence: float = 0.95,
) -> PartialEffect:
    """What a feature says about the label beyond covariates: "does H0 entropy predict correctness beyond length?"

    `covariates`: numbers [n_samples] (any smooth relation to the label, and jumps of it, are accounted for) or
    strings. A value is nan where classes are separated (the coefficient is infinite), or where no group holds both
    labels. Raises ShapeError, NonFiniteError, DataError (one class, a constant feature, a feature that the covariates determine).
    """
    tables = {name: np.asarray(checked(name, values, len(y))) for name, values in covariates.items()}
    stacked, labels, clusters = checked_rows(np.asarray(feature, np.float64)[:, None], y, groups)
    two_classes(labels)
    spread = stacked.std()
    if spread == 0:
        raise DataError("the feature is the same for every row.", "it can predict nothing: check how it was computed.")
    x = (stacked[:, 0] - stacked.mean()) / spread
    kept, parts = {}, []
    for name, values in tables.items():
        if len(np.unique(values)) < 2:
            continue
        part = columns(values, np.ones(len(labels), dtype=bool))
        kept[name] = part.shape[1]
        parts.append(part)
    covariate = _independent(np.column_stack([np.zeros((len(x), 0)), *parts]))
    for name in [name for name in kept if _is_a_number(tables[name])]:
        for target in (x, labels):
            steps = _jumps(tables[name][:, 0], covariate, target)
            kept[name] += steps.shape[1]
            covariate = _independent(np.column_stack([covariate, steps]))
    residual = _residual(x, covariate)
    if np.square(residual).sum() < 1e-10 * len(x):
        raise DataError(
            f"the feature and {list(kept)} are linearly dependent: their effects cannot be told apart.",
            "leave out the covariate that determines it.",
        )
    # the coefficient of what the covariates leave of the feature is that of the feature; but the prior on covariates
    # cannot be paid for by a feature that nearly is one of them
    design = np.column_stack([residual, covariate])
    ones, tail = np.ones((len(x), 1)), (1 - confidence) / 2
    pairs, pair_groups, weights = _pairs(labels, clusters)
    differences = design[pairs[:, 0]] - design[pairs[:, 1]] if len(pairs) else np.zeros((0, design.shape[1]))
    return PartialEffect(
        effect=_coefficient(np.column_stack([residual, ones, covariate]), labels, clusters, np.ones(len(x)), 2, tail),
        alone=_coefficient(np.column_stack([x, ones]), labels, clusters, np.ones(len(x)), 2, tail),
        within=_coefficient(_varying(differences), np.ones(len(pairs)), pair_groups, weights, 1, tail),
        covariates=kept,
        dropped=tuple(name for name in tables if name not in kept),
        n_samples=len(labels),
        n_groups=int(clusters.max() + 1),
        n_mixed_groups=len(np.unique(pair_groups)),
    )


def _is_a_number(values: ndarray) -> bool:
    return values.dtype.kind not in "OUS" and values.shape[1] == 1 and len(np.unique(values)) > FEW


def _jumps(values: ndarray, covariate: ndarray, target: ndarray) -> ndarray:
    """Indicators values > t of the jumps of `target` that the (uncorrelated) columns of `covariate` leave, [n n_jumps].

    One after the other, each at the place that explains most of what is left. Where the feature jumps must be known, or
    what length does there looks like its effect; where the label does makes the effect sharper (double selection:
    Belloni, Chernozhukov & Hansen 2014).
    """
    n = len(values)
    places = np.unique(values)
    if len(places) > MOST_PLACES:
        places = np.unique(np.quantile(values, np.linspace(0, 1, MOST_PLACES), method="lower"))
    steps = (values[:, None] > places).astype(float)
    behind = steps.sum(0)
    steps = steps[:, np.minimum(behind, n - behind) >= LEAST_BEHIND]
    basis = np.column_stack([np.ones(n), covariate]) / np.sqrt(n)
    left, rest = steps - basis @ (basis.T @ steps), target - basis @ (basis.T @ target)
    chosen: list[ndarray] = []
    while len(chosen) < MOST_JUMPS and (free := n - basis.shape[1] - len(chosen) - 1) > 0 and steps.shape[1]:
        size = np.square(left).sum(0)
        told = np.where(size > 1e-6 * n, np.square(rest @ left) / np.maximum(size, 1e-6 * n), 0.0)
        best = int(told.argmax())
        if told[best] * free < SURE * (np.square(rest).sum() - told[best]) or told[best] < 1e-12 * n:
            break
        chosen.append(steps[:, best])
        axis = left[:, best] / np.sqrt(size[best])
        left, rest = left - np.outer(axis, axis @ left), rest - axis * (axis @ rest)
    return np.column_stack([np.zeros((n, 0)), *chosen])


def _independent(table: ndarray) -> ndarray:
    """Columns that do not determine each other (nor a constant), spanning the same."""
    centred = table - table.mean(0)
    if not table.shape[1]:
        return centred
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, singular > 1e-9 * max(singular[0], 1e-300)] * np.sqrt(len(table))


def _varying(differences: ndarray) -> ndarray:
    """The feature's column and what else varies within groups, independent of each other."""
    if not len(differences):
        return differences
    others = differences[:, 1:]
    left, singular, _ = np.linalg.svd(others, full_matrices=False)
    others = left[:, singular > 1e-9 * np.sqrt(len(others))] * np.sqrt(len(others))
    return np.column_stack([_residual(differences[:, 0], others), others])


def _residual(x: ndarray, covariates: ndarray) -> ndarray:
    return x - covariates @ (covariates.T @ x) / len(x)


def _pairs(labels: ndarray, clusters: ndarray) -> tuple[Int[ndarray, "n_pairs 2"], ndarray, ndarray]:
    """(positive, negative) rows of one group, their groups and weights."""
    rng = np.random.default_rng(0)
    found: list[ndarray] = []
    weights: list[float] = []
    order = np.argsort(clusters, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(clusters))[:-1]):
        positive, negative = rows[labels[rows] == 1], rows[labels[rows] == 0]
        pairs = np.stack(np.meshgrid(positive, negative), -1).reshape(-1, 2)
        n_pairs = len(pairs)
        if n_pairs > MOST_PAIRS:
            pairs = pairs[rng.choice(n_pairs, MOST_PAIRS, replace=False)]
        found.append(pairs)
        weights += [n_pairs / (len(rows) * max(len(pairs), 1))] * len(pairs)
    stacked = np.concatenate(found)
    return stacked, clusters[stacked[:, 0]], np.array(weights)


def _coefficient(
    design: ndarray, labels: ndarray, clusters: ndarray, weights: ndarray, n_free: int, tail: float
) -> Interval:
    """Coefficient of the first column with its interval; nan where there is no finite maximum, or no more groups than columns."""
    n_groups = len(np.unique(clusters))
    free = n_groups - design.shape[1]
    fitted = _maximum(design, labels, weights, n_free) if free > 0 else None
    if fitted is None:
        return Interval(value=np.nan, low=np.nan, high=np.nan, n_undefined=1)
    beta, bread, residual = fitted
    scores = design * (weights * residual)[:, None]
    of_group = np.zeros((int(clusters.max()) + 1, design.shape[1]))
    np.add.at(of_group, clusters, scores)
    influence = of_group @ bread[:, 0]
    error = np.sqrt(np.square(influence).sum() * n_groups / free)
    half = float(student.isf(tail, free) * error)
    return Interval(value=float(beta[0]), low=float(beta[0] - half), high=float(beta[0] + half))


def _maximum(
    design: ndarray, labels: ndarray, weights: ndarray, n_free: int
) -> tuple[ndarray, ndarray, ndarray] | None:
    """Weighted maximum likelihood by Newton's method: coefficients, inverse of the information, residuals y − p.

    All columns but the first `n_free` have a weak prior (see `PENALTY`).

    None where there is no finite maximum.
    """
    beta = np.zeros(design.shape[1])
    penalty = np.full(design.shape[1], PENALTY)
    penalty[:n_free] = 0
    for _ in range(50):
        p = 0.5 * (1 + np.tanh(design @ beta / 2))
        information = (design * (weights * p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        if np.linalg.cond(information) > 1e10:
            return None
        bread = np.linalg.inv(information)
        step = bread @ (design.T @ (weights * (labels - p)) - penalty * beta)
        beta = beta + step
        if np.abs(step).max() < 1e-9:
            return beta, bread, labels - p
    return None  # separated classes: each step goes about one further, for ever
