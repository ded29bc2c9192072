"""Planted groups are found and beat their null; a cloud without groups does not; what a rotation cannot show."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from mechsteer.bases import from_directions, meaningless
from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.features import Clustering, cluster_by_decoder, cluster_by_firing
from mechsteer.features.cloud import one_cloud

GROUPS = np.repeat([0, 1, 2, 3], [20, 15, 10, 8])


def planted_rows(noise=0.4, seed=0, d=16):
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.standard_normal((d, 4)))[0].T
    return torch.tensor(centres[GROUPS] + noise * rng.standard_normal((len(GROUPS), d)) / np.sqrt(d))


def planted_firing(seed=0, n_tokens=3000):
    """Features of a group fire on the same tokens, mostly."""
    rng = np.random.default_rng(seed)
    events = rng.random((n_tokens, 4)) < 0.05
    fires = (events[:, GROUPS] & (rng.random((n_tokens, len(GROUPS))) < 0.8)) | (
        rng.random((n_tokens, len(GROUPS))) < 0.005
    )
    return torch.tensor(fires * rng.uniform(0.5, 1, fires.shape))


@pytest.mark.parametrize("method", ["agglomerative", "hdbscan"])
@pytest.mark.parametrize("by", ["cosine", "jaccard", "correlation"])
def test_planted_groups_are_found_and_beat_the_null(by, method):
    how = Clustering(method=method, n_clusters=(2, 4, 8), min_size=4)
    ids = [10 + i for i in range(len(GROUPS))]
    found = (
        cluster_by_decoder(planted_rows(), ids, how)
        if by == "cosine"
        else cluster_by_firing(planted_firing(), ids, how, by=by)
    )
    named = found.labels >= 0
    assert named.mean() > 0.8
    assert adjusted_rand_score(GROUPS[named], found.labels[named]) == 1
    assert (found.by, found.method, found.features[0]) == (by, method, 10)
    assert sum(found.sizes) + found.n_noise == len(GROUPS)
    assert list(found.sizes) == sorted(found.sizes, reverse=True)
    assert found.p_value == pytest.approx(1 / 21)
    assert found.null is not None
    assert math.isnan(found.null.high) or found.silhouette > found.null.high
    assert np.nanmean(found.silhouettes) == pytest.approx(found.silhouette)
    assert set(found.members(0)) <= set(ids[:20])
    assert found.map.shape == (len(GROUPS), 2)
    assert 0 < found.map_variance[1] <= found.map_variance[0] < 1


def test_what_has_no_groups_does_not_beat_the_null():
    """Over 20 sets without groups p is at most 0.1 no more often than it says; rows of an elongated cloud included."""
    rng = np.random.default_rng(0)
    how = Clustering(n_clusters=(2, 3, 5), n_nulls=9)
    stretched = rng.standard_normal((8, 8)) * np.array([4, 3, 1, 1, 1, 1, 1, 1])
    rows = [torch.tensor(rng.standard_normal((40, 8)) @ stretched) for _ in range(20)]
    assert sum(cluster_by_decoder(each, how=how).p_value <= 0.1 for each in rows) <= 4
    acts = [torch.tensor((rng.random((400, 30)) < 0.1) * 1.0) for _ in range(20)]
    assert sum(cluster_by_firing(each, how=how).p_value <= 0.1 for each in acts) <= 5


def test_a_rotation_would_be_no_null():
    """It keeps every cosine: the same clusters, the same silhouette."""
    rows = planted_rows()
    (rotated,) = meaningless(from_directions(rows), 1, seed=0)
    ours, theirs = (cluster_by_decoder(each, how=Clustering(n_nulls=0)) for each in (rows, rotated.directions))
    assert ours.labels.tolist() == theirs.labels.tolist()
    assert ours.silhouette == pytest.approx(theirs.silhouette, rel=1e-10)
    assert ours.null is None
    assert math.isnan(ours.p_value)


@pytest.mark.parametrize(("stretch", "shift"), [((1, 1, 1, 1, 1), 0), ((5, 1, 1, 1, 1), 0), ((2, 1, 1, 1, 1), 2)])
def test_the_cloud_has_the_mean_and_covariance_of_the_rows(stretch, shift):
    """Also where normalising changes them much: an elongated cloud becomes two caps."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 5)) * stretch + shift
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cloud = one_cloud(units, rng)
    drawn = np.concatenate([cloud.draw(rng) for _ in range(40)])
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-10)
    np.testing.assert_allclose(drawn.mean(0), units.mean(0), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(units.T), atol=0.03)


def test_similarities_are_what_they_are_called():
    acts = torch.tensor([[1.0, 2, 0, 0], [1, 0, 0, 3], [0, 1, 2, 0], [0, 0, 1, 1], [4, 4, 0, 0]])
    fires = acts.numpy() > 0
    how = Clustering(n_clusters=(2,), n_nulls=0)
    for by, expected in (
        ("jaccard", [[(a & b).sum() / (a | b).sum() for b in fires.T] for a in fires.T]),
        ("correlation", np.corrcoef(acts.numpy().T)),
    ):
        similarity = np.array(expected)
        centred = similarity - similarity.mean(0)
        found = cluster_by_firing(acts, how=how, by=by)
        inner = centred @ centred.T  # the map keeps the two largest parts of these products
        values = np.linalg.eigvalsh(inner)[::-1]
        np.testing.assert_allclose((found.map**2).sum(0), values[:2], rtol=1e-6)


def test_no_clusters_is_undefined_and_not_zero():
    found = cluster_by_decoder(
        torch.tensor(np.random.default_rng(0).standard_normal((30, 64))), how=Clustering(method="hdbscan", n_nulls=2)
    )
    assert found.n_noise == 30
    assert math.isnan(found.silhouette)
    assert math.isnan(found.p_value)
    assert found.sizes == ()


def test_refusals():
    rows = planted_rows()
    with pytest.raises(ConfigError, match="no clustering 'kmeans'"):
        Clustering(method="kmeans")
    with pytest.raises(ConfigError, match="at least 2"):
        Clustering(n_clusters=(1,))
    with pytest.raises(ConfigError, match="fewer clusters"):
        cluster_by_decoder(rows[:6], how=Clustering(n_clusters=(6,)))
    with pytest.raises(ConfigError, match="no similarity 'cosine'"):
        cluster_by_firing(rows, by="cosine")
    with pytest.raises(ShapeError, match="one id per feature"):
        cluster_by_decoder(rows, [1, 2])
    with pytest.raises(ShapeError, match="expected decoder rows"):
        cluster_by_decoder(rows[0])
    with pytest.raises(DataError, match="at least four"):
        cluster_by_decoder(rows[:3])
    zero = rows.clone()
    zero[7] = 0
    with pytest.raises(DataError, match=r"decoder row that is zero, such as \[7\]"):
        cluster_by_decoder(zero)
    acts = planted_firing()
    acts[:, 3] = 0
    with pytest.raises(DataError, match=r"never fire on these tokens, such as \[3\]"):
        cluster_by_firing(acts)
    with pytest.raises(DataError, match="do not vary"):
        cluster_by_firing(acts, by="correlation")
    rows[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN"):
        cluster_by_decoder(rows)
