"""Intervals of a cross-fitted share: of what the directions chosen here recover on new contexts of the same kind.

The chosen sets, one for each fold, are held fixed; each is checked on its fold, which did not choose it. With weights
n_f / n of the folds the share is

    Σ_f n_f / n · E[effect of the part in set f] / E[effect of the whole]

An error is one of checking alone: of a ratio of means, linearised, over groups of contexts within their folds, with
Student's t. What another selection would choose is another question (`crossfit.repeated`), but for one thing: errors
of the folds are alike, since each has chosen what the other checks, and the variance of their sum is that much more.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student

Half = Float[np.ndarray, " n_sizes"]


def half_width(
    values: Float[np.ndarray, "n_rows n_sizes"],
    rows: Int[np.ndarray, " n_rows"],
    effect: Float[np.ndarray, " n_contexts"],
    group_of: np.ndarray,
    fold_of: np.ndarray,
    alike: Half,
) -> Half:
    """Half a 95 % interval of mean of `values`, those of the contexts `rows` / mean of `effect`, of all contexts.

    `alike`: see `crossfit.Repeated`. nan where `rows` has fewer than two groups in some fold: they show no spread.
    """
    folds = range(fold_of.max() + 1)
    n_groups = np.asarray([len(np.unique(group_of[rows][fold_of[rows] == fold])) for fold in folds])
    if n_groups.min() < 2:
        return np.full(values.shape[1], np.nan)
    share = values.mean(0) / effect.mean()
    errors = -share * _centred(effect[:, None], fold_of) / len(effect)
    errors[rows] += _centred(values, fold_of[rows]) / len(rows)
    by_group = np.zeros((group_of.max() + 1, values.shape[1]))
    np.add.at(by_group, group_of, errors)
    fold_of_group = np.zeros(len(by_group), int)
    fold_of_group[group_of] = fold_of
    variance = (n_groups / (n_groups - 1))[fold_of_group] @ by_group**2
    quantile = student.ppf(0.975, n_groups.sum() - len(n_groups))
    return quantile * np.sqrt(alike * variance) / abs(effect.mean())


def half_width_over_draws(values: Float[np.ndarray, "n_draws n_sizes"]) -> Half:
    """Half a 95 % interval of the mean of `values` over all there could be; nan of fewer than two."""
    n = len(values)
    if n < 2:
        return np.full(values.shape[1], np.nan)
    return student.ppf(0.975, n - 1) * np.sqrt(values.var(0, ddof=1) / n)


def _centred(values: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """Values [n n_sizes] less the mean of their fold."""
    sums = np.zeros((fold_of.max() + 1, values.shape[1]))
    np.add.at(sums, fold_of, values)
    return values - (sums / np.bincount(fold_of)[:, None])[fold_of]
