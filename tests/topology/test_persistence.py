"""Distances and functions of diagrams, where the answer can be worked out by hand."""

import numpy as np
import persim  # noqa: TID251  the oracle
import pytest

from mechsteer.errors import ShapeError
from mechsteer.topology import betti_curve, bottleneck, h1_bars, landscape, persistence_image, wasserstein

EMPTY = np.empty((0, 2))


def test_matched_bars():
    first, second = np.array([[0.0, 2.0], [0.0, 5.0]]), np.array([[0.0, 2.5], [0.0, 4.0]])
    assert bottleneck(first, second) == pytest.approx(1.0)
    assert wasserstein(first, second) == pytest.approx(1.5)
    assert bottleneck(first, first) == wasserstein(first, first) == 0


def test_empty_diagrams_go_to_the_diagonal():
    bars = np.array([[0.0, 2.0], [1.0, 4.0], [0.0, np.inf]])
    assert bottleneck(EMPTY, EMPTY) == wasserstein(EMPTY, EMPTY) == 0
    assert bottleneck(bars, EMPTY) == bottleneck(EMPTY, bars) == pytest.approx(1.5)
    assert wasserstein(bars, EMPTY) == pytest.approx(5 / np.sqrt(2))
    # The same from persim, where a far and vanishing bar stands for the empty diagram.
    speck = np.array([[100.0, 100.0 + 1e-12]])
    assert wasserstein(bars, EMPTY) == pytest.approx(persim.wasserstein(bars[:2], speck))
    assert bottleneck(bars, EMPTY) == pytest.approx(persim.bottleneck(bars[:2], speck))


def test_betti_curve_of_nothing():
    assert betti_curve(EMPTY, np.array([0.0, 1.0])).tolist() == [0, 0]


def test_landscapes_are_ordered_and_match_persim():
    bars = np.random.default_rng(0).uniform(0, 1, (6, 2)).cumsum(1)
    ours = landscape(bars, start=0, stop=2, n_steps=201, depth=3)
    assert (np.diff(ours, axis=0) <= 0).all()
    theirs = persim.PersLandscapeExact(dgms=[bars], hom_deg=0)
    for values, corners in zip(ours, theirs.compute_landscape(), strict=False):
        x, y = np.array(corners).T
        np.testing.assert_allclose(values, np.interp(np.linspace(0, 2, 201), x, y), atol=1e-9)


def test_persistence_image_is_on_the_given_grid():
    image = persistence_image(np.array([[0.5, 1.5]]), birth_range=(0, 1), persistence_range=(0, 2), pixel_size=0.25)
    assert image.shape == (4, 8)
    assert image.sum() > 0


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match="square matrix with a zero diagonal"):
        h1_bars(np.ones((5, 5)))
    with pytest.raises(ShapeError, match=r"\[n_bars 2\]"):
        bottleneck(np.ones(3), EMPTY)
