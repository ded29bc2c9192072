"""Curves, categories and token counts, fitted on training rows alone."""

import numpy as np
import patsy
import pytest

from mechsteer.probes import TokenCounts
from mechsteer.probes.columns import columns, curve, natural_spline


def test_natural_spline_spans_what_patsy_spans():
    x = np.random.default_rng(0).gamma(3, 10, 300)
    knots = np.quantile(x, np.linspace(0, 1, 6))
    ours = np.column_stack([np.ones(300), natural_spline(x, knots)])
    theirs = np.asarray(patsy.cr(x, knots=knots[1:-1], lower_bound=knots[0], upper_bound=knots[-1]))
    projections = []
    for basis in (ours, np.column_stack([np.ones(300), theirs])):
        left = np.linalg.svd(basis, full_matrices=False)[0][:, :6]
        projections.append(left @ left.T)
    np.testing.assert_allclose(*projections, atol=1e-9)
    beyond = natural_spline(np.array([200.0, 300.0, 400.0]) + knots[-1], knots)
    np.testing.assert_allclose(beyond[1] - beyond[0], beyond[2] - beyond[1], rtol=1e-6)  # a straight line outside


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_columns_of_a_curve_are_uncorrelated_on_training_rows(scale):
    rng = np.random.default_rng(1)
    x, train = scale * rng.integers(5, 90, 400), rng.random(400) < 0.7
    made = curve(x, train)
    assert made.shape == (400, 5)
    np.testing.assert_allclose(made[train].T @ made[train] / train.sum(), np.eye(5), atol=1e-8)
    altered = x.copy()
    altered[~train] *= 2
    np.testing.assert_array_equal(curve(altered, train)[train], made[train])


def test_few_values_and_texts_become_indicators():
    train = np.array([True, True, True, True, False])
    assert columns(np.array([[1.0], [2.0], [2.0], [3.0], [9.0]]), train).tolist() == [
        *([[1.0, 0.0]]),
        [0.0, 0.0],
        [0.0, 0.0],
        [0.0, 1.0],
        [0.0, 0.0],
    ]
    assert columns(np.array([["a"], ["b"], ["b"], ["b"], ["c"]]), train).T.tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0]]


def test_tokens_are_chosen_on_training_rows():
    bag = TokenCounts([[1, 1, 2], [1, 2], [2, 3], [7, 7, 7, 1]], n_most=2)
    made = bag.columns(np.array([True, True, True, False]))
    np.testing.assert_allclose(np.expm1(made), [[1, 2], [1, 1], [1, 0], [0, 1]])


def test_what_does_not_vary_on_training_rows_is_a_column_all_the_same():
    train = np.array([True, True, False])
    for values in (np.ones((3, 1)), np.array([["a"], ["a"], ["b"]]), TokenCounts([[], [], [1]])):
        assert columns(values, train).tolist() == [[0.0]] * 3
