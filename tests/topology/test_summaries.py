"""Persistent entropy: the edge cases of its definition, and clouds whose bars are known."""

import numpy as np
import pytest
import torch
from ripser import ripser  # noqa: TID251  the oracle

from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.results import from_json, to_json
from mechsteer.topology import h0_batch, prepare, summarize

SCALARS = ("entropy_nats", "n_bars", "n_zero", "total", "max", "deficit", "normalized", "collapsed")


def circle(n=42):
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.column_stack([np.cos(angles), np.sin(angles)])


def test_entropy_by_hand():
    h0 = summarize(np.array([[0.0], [1.0], [3.0], [3.0]]), dims=(0,)).h0
    p = np.array([1, 2]) / 3
    entropy = -(p * np.log(p)).sum()
    assert (h0.n_bars, h0.n_zero, h0.total, h0.max, h0.collapsed) == (2, 1, 3.0, 2.0, False)
    assert h0.entropy_nats == pytest.approx(entropy, rel=1e-12)
    assert h0.deficit == pytest.approx(np.log(2) - entropy, rel=1e-12)
    assert h0.normalized == pytest.approx(entropy / np.log(2), rel=1e-12)
    np.testing.assert_array_equal(h0.bars, [[0, 1], [0, 2]])


def test_one_point():
    summary = summarize(np.ones((1, 3)))
    for bars in (summary.h0, summary.h1):
        assert (bars.entropy_nats, bars.n_bars, bars.n_zero, bars.total, bars.collapsed) == (0, 0, 0, 0, False)
        assert np.isnan(bars.deficit)
        assert np.isnan(bars.normalized)


def test_all_points_equal():
    h0 = summarize(np.full((6, 3), 0.1), dims=(0,)).h0
    assert (h0.entropy_nats, h0.n_bars, h0.n_zero, h0.max, h0.collapsed) == (0, 0, 5, 0, True)
    assert np.isnan(h0.deficit)


def test_one_bar_has_no_normalised_entropy():
    h0 = summarize(np.array([[0.0], [2.0]]), dims=(0,)).h0
    assert (h0.entropy_nats, h0.n_bars, h0.deficit) == (0, 1, 0)
    assert np.isnan(h0.normalized)


def test_equals_ripser_in_both_dimensions():
    points = np.random.default_rng(0).standard_normal((40, 3))
    summary = summarize(points)
    zero, one = ripser(points, maxdim=1)["dgms"]
    np.testing.assert_allclose(summary.h0.bars[:, 1], np.sort(zero[:-1, 1]), rtol=1e-6)
    order = np.argsort(one[:, 1] - one[:, 0])
    np.testing.assert_allclose(summary.h1.bars, one[order], rtol=1e-5, atol=1e-6)
    assert summary.h1.total == pytest.approx((one[:, 1] - one[:, 0]).sum(), rel=1e-5)


def test_a_circle_has_one_long_loop_and_a_line_has_none():
    loop = summarize(circle()).h1
    # Born when neighbours join, dead when the inscribed regular triangle appears, whose side is √3.
    assert loop.n_bars == 1
    np.testing.assert_allclose(loop.bars, [[2 * np.sin(np.pi / 42), np.sqrt(3)]], rtol=1e-6)
    assert summarize(np.linspace(0, 1, 30)[:, None]).h1.n_bars == 0


def test_clouds_in_general_position_sit_just_under_their_bound():
    # 3.40 and 3.83 nats are the numbers of points, not a property of the clouds.
    points = np.random.default_rng(1).standard_normal((47, 1024))
    for n, bound in ((31, 3.4012), (47, 3.8286)):
        h0 = summarize(points[:n], dims=(0,)).h0
        assert h0.entropy_nats == pytest.approx(bound, abs=1e-3)
        assert 0 < h0.deficit < 1e-3


def test_batch_equals_single_trajectories():
    rng = np.random.default_rng(2)
    points = rng.standard_normal((5, 9, 4)).astype(np.float32)
    points[3] = 1.0
    lengths = [9, 4, 1, 9, 2]
    batch = h0_batch(points, lengths)
    for row, (cloud, length) in enumerate(zip(points, lengths, strict=True)):
        single = summarize(cloud[:length], dims=(0,)).h0
        for name in SCALARS:
            np.testing.assert_allclose(getattr(batch, name)[row], getattr(single, name), rtol=1e-12, err_msg=name)
        lifetimes = batch.bars[row]
        np.testing.assert_allclose(lifetimes[lifetimes > 0], single.bars[:, 1])


def test_metric_and_preparation():
    rng = np.random.default_rng(3)
    points = rng.standard_normal((12, 5)) * [100, 1, 1, 1, 0]
    scaled = points * rng.uniform(0.1, 10, (12, 1))
    cosine = summarize(points, dims=(0,), metric="cosine")
    assert cosine.metric == "cosine"
    np.testing.assert_allclose(summarize(scaled, dims=(0,), metric="cosine").h0.bars, cosine.h0.bars, rtol=1e-10)
    standard = prepare(points, zscore=True).numpy()
    np.testing.assert_allclose(standard.std(0), [1, 1, 1, 1, 0], atol=1e-12)
    assert prepare(points, pca=2).shape == (12, 2)
    kept = summarize(points, dims=(0,), pca=5)
    assert kept.pca == 5
    np.testing.assert_allclose(kept.h0.bars, summarize(points, dims=(0,)).h0.bars, rtol=1e-9)
    unchanged = torch.randn(3, 2)
    assert torch.equal(prepare(unchanged), unchanged)


def test_refusals():
    with pytest.raises(ShapeError, match="at least one point is needed"):
        summarize(np.zeros((0, 4)))
    with pytest.raises(ShapeError, match="at least one point is needed"):
        summarize(np.zeros(4))
    with pytest.raises(NonFiniteError, match="point 1 of the trajectory"):
        summarize(torch.tensor([[0.0], [torch.nan]]))
    with pytest.raises(ConfigError, match="dims are"):
        summarize(np.zeros((2, 2)), dims=(0, 2))
    with pytest.raises(ConfigError, match="metric is"):
        summarize(np.zeros((2, 2)), metric="manhattan")
    with pytest.raises(ConfigError, match="pca is 3"):
        summarize(np.zeros((2, 2)), pca=3)
    with pytest.raises(DataError, match="zero vector"):
        summarize(np.zeros((2, 2)), metric="cosine")


def test_json_and_back():
    for summary in (summarize(np.ones((2, 3))), h0_batch(np.zeros((2, 3, 1)), [3, 1])):
        assert from_json(type(summary), to_json(summary)) == summary
