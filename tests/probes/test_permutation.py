"""The permutation test: scikit-learn's ridge by hand, and its size under nothing."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from mechsteer.probes import ordered_blocks
from mechsteer.probes.permutation import permutation_p, permuted_auroc


def case(seed, signal=0.0, n_groups=40):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), 4)
    ease = rng.standard_normal(n_groups)[groups]
    y = (ease + rng.logistic(size=len(groups)) > 0).astype(int)
    X = rng.standard_normal((len(groups), 6))
    X[:, 0] += signal * y
    X[:, 1] += ease
    return X, y, groups, ordered_blocks(y, groups, n_splits=3)


def test_equals_sklearn_by_hand():
    X, y, groups, blocks = case(0, signal=1.0)
    won = total = 0
    for block in range(3):
        scaler = StandardScaler().fit(X[blocks < block])
        ridge = Ridge(alpha=6.0).fit(scaler.transform(X[blocks < block]), y[blocks < block])
        rows = np.flatnonzero(blocks == block)
        scores = ridge.predict(scaler.transform(X[rows]))
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                if groups[a] == groups[b] and y[a] > y[b]:
                    won, total = won + (scores[i] > scores[j]), total + 1
    value, permuted = permuted_auroc(X, y, groups, blocks, n_permutations=200)
    assert value == pytest.approx(won / total)
    assert len(permuted) == 200
    assert abs(permuted.mean() - 0.5) < 0.03
    assert permutation_p(value, permuted) == 1 / 201


def test_size_under_nothing_where_difficulty_is_read():
    """The states know the problem (X[:, 1]) and not the attempt: p is below .1 in a tenth of the samples."""
    low = 0
    for seed in range(120):
        value, permuted = permuted_auroc(*case(seed), n_permutations=39, seed=seed)
        low += permutation_p(value, permuted) <= 0.1
    assert 3 <= low <= 22  # 12 expected


def test_without_mixed_groups_there_is_nothing_to_test():
    X, _, groups, blocks = case(1)
    value, permuted = permuted_auroc(X, groups % 2, groups, blocks, n_permutations=9)
    assert np.isnan(value)
    assert np.isnan(permutation_p(value, permuted))
