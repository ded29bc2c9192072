"""Spanning trees against ripser's H0 deaths, scipy's trees, and clouds with known trees."""

import numpy as np
import pytest
import torch
from ripser import ripser  # noqa: TID251  the oracle
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform

from mechsteer import spanning
from mechsteer.errors import DataError, NonFiniteError, ShapeError
from mechsteer.signals.spanning import StreamingH0, lifetime_entropy, mst_edges, squared_distances


def ripser_deaths(points):
    """Of exact distances: ripser's own (sklearn's) are Gram distances too, and not exact for near-duplicates."""
    deaths = ripser(squareform(pdist(points.astype(np.float64))), maxdim=0, distance_matrix=True)["dgms"][0][:, 1]
    return np.sort(deaths[np.isfinite(deaths)])


def clouds(dtype):
    rng = np.random.default_rng(0)
    general = rng.standard_normal((40, 64))
    return {
        "general position": general,
        "far from the origin": general + 1e4,
        "massive dimensions": general * np.where(np.arange(64) < 2, 1e3, 1.0),
        "sink": np.concatenate([general, 1e4 * general[:1]]),
        "near-duplicates": np.concatenate([general, general[:10] + 1e-4 * rng.standard_normal((10, 64))]),
        "one dimension": rng.standard_normal((40, 1)),
        "random walk": rng.standard_normal((60, 64)).cumsum(0),
        "two points": general[:2],
    } | ({"very near": np.concatenate([general, general[:5] + 1e-11])} if dtype == np.float64 else {})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_ripser(dtype):
    for name, cloud in clouds(dtype).items():
        points = cloud.astype(dtype)
        np.testing.assert_allclose(mst_edges(points[None])[0], ripser_deaths(points), rtol=1e-6, err_msg=name)


def test_equals_ripser_called_the_usual_way_and_scipy():
    points = np.random.default_rng(1).standard_normal((3, 50, 20))
    for edges, cloud in zip(mst_edges(points), points, strict=True):
        np.testing.assert_allclose(edges, np.sort(ripser(cloud, maxdim=0)["dgms"][0][:-1, 1]), rtol=1e-6)
        tree = minimum_spanning_tree(squareform(pdist(cloud)))
        np.testing.assert_allclose(edges, np.sort(tree.data), rtol=1e-12)


def test_duplicates_have_length_zero():
    cloud = np.random.default_rng(2).standard_normal((30, 512)).astype(np.float32) * 100
    edges = mst_edges(np.concatenate([cloud, cloud[:7], cloud[:1]])[None])[0]
    assert (edges == 0).sum() == 8
    np.testing.assert_allclose(edges[8:], mst_edges(cloud[None])[0])
    assert not mst_edges(np.full((1, 9, 5), 0.1)).any()


def test_lengths_mask_padding():
    rng = np.random.default_rng(3)
    points = rng.standard_normal((4, 12, 8))
    lengths = [12, 5, 1, 2]
    for row, length in zip(points, lengths, strict=True):
        row[length:] = np.nan
    edges = mst_edges(points, lengths)
    for row, cloud, length in zip(edges, points, lengths, strict=True):
        np.testing.assert_allclose(row[: length - 1], mst_edges(cloud[None, :length])[0], rtol=1e-12)
        assert np.isnan(row[length - 1 :]).all()


def test_a_row_does_not_depend_on_its_batch_or_on_chunks(monkeypatch):
    points = torch.randn(7, 20, 16, generator=torch.Generator().manual_seed(0))
    together = mst_edges(points)
    monkeypatch.setattr(spanning, "CHUNK_VALUES", 700)
    np.testing.assert_allclose(mst_edges(points), together, rtol=1e-12)
    np.testing.assert_allclose(np.concatenate([mst_edges(row[None]) for row in points]), together, rtol=1e-12)
    crowded = points * 1e-5 + torch.nn.functional.one_hot(torch.arange(20) % 2, 16)  # recomputed, in several chunks
    np.testing.assert_allclose(mst_edges(crowded[:1])[0], ripser_deaths(crowded[0].numpy()), rtol=1e-6)


def test_centring_spares_an_offset_cloud_the_slow_exact_distances(monkeypatch):
    points = np.random.default_rng(7).standard_normal((1, 30, 16)) + 1e5
    monkeypatch.setattr(spanning, "_recompute", lambda *_: pytest.fail("recomputed"))
    assert mst_edges(points).shape == (1, 29)


def test_rotation_order_and_scale():
    rng = np.random.default_rng(4)
    points = rng.standard_normal((25, 6))
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    edges = mst_edges(points[None])
    np.testing.assert_allclose(mst_edges((points @ rotation)[None]), edges, rtol=1e-10)
    np.testing.assert_allclose(mst_edges(points[None, rng.permutation(25)]), edges, rtol=1e-10)
    np.testing.assert_allclose(mst_edges(3.5 * points[None]), 3.5 * edges, rtol=1e-10)


def test_dtypes_and_inputs():
    points = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    np.testing.assert_array_equal(mst_edges(points), mst_edges(points.double()))
    np.testing.assert_array_equal(mst_edges(points.double().numpy()), mst_edges(points))
    assert mst_edges(points.float().requires_grad_()).shape == (2, 9)
    assert mst_edges(points[:, :1]).shape == (2, 0)
    assert mst_edges(points[:0]).shape == (0, 9)


def test_squared_distances_equal_pairwise_differences():
    points = np.random.default_rng(5).standard_normal((20, 7))
    np.testing.assert_allclose(squared_distances(points), squareform(pdist(points)) ** 2, rtol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_points_are_refused(bad):
    points = np.zeros((3, 4, 2))
    points[1, 2, 0] = bad
    with pytest.raises(NonFiniteError, match="trajectory 1 holds NaN"):
        mst_edges(points)


@pytest.mark.parametrize("shape", [(3, 2), (2, 0, 4), (2, 3, 0)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ShapeError, match="at least one point is needed"):
        mst_edges(np.zeros(shape))


@pytest.mark.parametrize("lengths", [[0, 2], [2, 4], [2], [1.0, 2.0]])
def test_wrong_lengths_are_refused(lengths):
    with pytest.raises(ShapeError, match="2 integers in 1 … 3"):
        mst_edges(np.zeros((2, 3, 1)), lengths)


def test_lifetime_entropy():
    entropy, deficit = lifetime_entropy(
        np.array([[1.0, 1.0, 1.0], [0.0, 5.0, np.nan], [0.0, 0.0, 0.0], [1.0, 3.0, 0.0]])
    )
    p = np.array([0.25, 0.75])
    np.testing.assert_allclose(entropy, [np.log(3), 0.0, 0.0, -(p * np.log(p)).sum()], rtol=1e-12)
    np.testing.assert_allclose(deficit, [0.0, 0.0, np.nan, np.log(2) + (p * np.log(p)).sum()], rtol=1e-12)
    assert not np.signbit(entropy).any()


def test_streaming_equals_batch_over_the_window():
    rng = np.random.default_rng(6)
    points = rng.standard_normal((40, 12)).cumsum(0)
    points[9] = points[7]
    stream = StreamingH0(window=8)
    for end, point in enumerate(points, start=1):
        edges = stream.push(point)
        expected = mst_edges(points[None, max(0, end - 8) : end])[0]
        np.testing.assert_allclose(edges, expected, rtol=1e-9, atol=0)
        assert stream.entropy_nats == pytest.approx(float(lifetime_entropy(expected)[0]), abs=1e-12)


def test_streaming_refuses_what_it_cannot_use():
    with pytest.raises(DataError, match="a window of 1 points"):
        StreamingH0(window=1)
    stream = StreamingH0(window=4)
    stream.push(torch.zeros(3))
    with pytest.raises(ShapeError, match="shape \\[2\\]"):
        stream.push(torch.zeros(2))
    with pytest.raises(NonFiniteError, match="point 1 holds NaN"):
        stream.push(torch.tensor([0.0, np.nan, 0.0]))
