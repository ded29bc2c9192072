"""Do the states tell right from wrong at all? A permutation test within groups, exact at every sample size.

If the states say nothing within groups, the labels of one group could as well have stood in any other order. The
statistic is the within-group AUROC of least squares with a ridge penalty, tested block by block like every other
probe; its scores are linear in the labels it was trained on, s = X (XᵀX + λ)⁻¹ Xᵀ y, so that it is fitted anew for
each of a thousand permutations at the price of one product.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

AT_ONCE = 2**22  # comparisons of two rows held at a time


def permuted_auroc(
    X: Float[ndarray, "n_samples d_model"],
    labels: Int[ndarray, " n_samples"],
    clusters: Int[ndarray, " n_samples"],
    blocks: Int[ndarray, " n_samples"],
    *,
    n_permutations: int,
    seed: int = 0,
) -> tuple[float, Float[ndarray, " n_permutations"]]:
    """Within-group AUROC of the ridge probe with the labels as they are, and with permuted ones; nan and nothing where
    no tested group holds both labels. `blocks` as `mechsteer.probes.ordered_blocks` gives them."""
    rng = np.random.default_rng(seed)
    by_group = np.argsort(clusters, kind="stable")
    y = np.empty((len(labels), 1 + n_permutations))
    y[:, 0] = labels
    for i in range(1, y.shape[1]):
        y[by_group, i] = labels[np.lexsort((rng.random(len(labels)), clusters))]
    scores = np.zeros_like(y)
    for block in range(blocks.max() + 1):
        train, test = blocks < block, blocks == block
        scores[test] = _ridge(X[train], y[train], X[test])
    first, second = _row_pairs(clusters, blocks >= 0)
    found = np.empty(y.shape[1])
    step = max(1, AT_ONCE // max(len(first), 1))
    for at in range(0, len(found), step):
        part = slice(at, at + step)
        side = y[first, part] - y[second, part]
        won = (np.sign(scores[first, part] - scores[second, part]) * side + 1) / 2
        pairs = np.abs(side).sum(0)
        found[part] = np.where(pairs > 0, (won * np.abs(side)).sum(0) / np.where(pairs > 0, pairs, 1), np.nan)
    return (float(found[0]), found[1:]) if not np.isnan(found[0]) else (float("nan"), np.zeros(0))


def permutation_p(value: float, permuted: Float[ndarray, " n_permutations"]) -> float:
    """One-sided p-value, the labels as they are counted among the permutations; nan without any.

    >>> permutation_p(0.7, np.array([0.4, 0.5, 0.7]))
    0.5
    """
    if not len(permuted):
        return float("nan")
    return float((1 + (permuted >= value - 1e-12).sum()) / (1 + len(permuted)))


def _ridge(X: ndarray, y: ndarray, X_test: ndarray) -> ndarray:
    """Scores [n_test n_permutations] of standardised columns with a penalty of one row per column."""
    mean, deviation = X.mean(0), X.std(0)
    scale = np.where(deviation > 0, deviation, 1.0)
    Z, Z_test = (X - mean) / scale, (X_test - mean) / scale
    gram = Z.T @ Z + X.shape[1] * np.eye(X.shape[1])
    return Z_test @ np.linalg.solve(gram, Z.T @ (y - y.mean(0)))


def _row_pairs(clusters: ndarray, tested: ndarray) -> tuple[ndarray, ndarray]:
    """All pairs of tested rows of one group."""
    rows = np.flatnonzero(tested)
    rows = rows[np.argsort(clusters[rows], kind="stable")]
    size = np.unique(clusters[rows], return_counts=True)[1]
    starts = np.cumsum(size) - size
    pairs = [np.stack(np.triu_indices(n, 1)) + start for n, start in zip(size, starts, strict=True)]
    first, second = np.concatenate(pairs, axis=1)
    return rows[first], rows[second]
