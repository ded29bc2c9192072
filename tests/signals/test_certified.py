"""Trees from float32 products against trees of exact distances, on clouds made to mislead float32."""

import numpy as np
import pytest
import torch
from ripser import ripser  # noqa: TID251  the oracle
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform

from mechsteer.errors import NonFiniteError
from mechsteer.signals import certified, spanning
from mechsteer.signals.certified import certified_edges, near_pairs
from mechsteer.signals.spanning import mst_edges

N, D = 40, 96


def exact(points):
    """Sorted edges of the minimum spanning tree of distances in float64, duplicates included."""
    distances = squareform(pdist(points.astype(np.float64)))
    return np.sort(spanning.prim(distances[None])[0])


def clouds():
    """Float32 clouds [N D], all of them hard for float32 products."""
    rng = np.random.default_rng(0)
    general = rng.standard_normal((N, D))
    simplex = np.eye(N, D) * 3  # every pair is as far apart: all trees are minimal
    nearly = simplex * (1 + 1e-7 * rng.standard_normal((N, 1)))
    sink, grid = general.copy(), np.zeros((N, D))
    sink[5] *= 1e4
    grid[:, :2] = np.stack(np.divmod(np.arange(N), 8), 1)
    return {
        "general position": general,
        "massive dimensions": general * np.where(np.arange(D) < 2, 1e3, 1.0),
        "far from the origin": general + 300,
        "ties": simplex,
        "near ties": nearly,
        "a grid": grid + 0.25,
        "random walk": general.cumsum(0),
        "huge": general * 1e12,
        "tiny": general * 1e-7,
        "an attention sink": sink,
        "norms of many sizes": general * np.logspace(0, 3, N)[:, None],
        "near-duplicates": np.concatenate([general[: N - 5], general[:5] + 1e-4 * rng.standard_normal((5, D))]),
        "duplicates": np.concatenate([general[: N - 3], general[:3]]),
        "subnormal": general * 1e-40,
        "overflowing": general * 1e25,
        "all equal": np.ones((N, D)),
    }


NOT_CERTIFIED = {"duplicates", "subnormal", "overflowing", "all equal"}
CERTIFIED = {"general position", "massive dimensions", "random walk", "huge", "tiny", "norms of many sizes"}


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request, monkeypatch):
    monkeypatch.setattr(certified, "SHARE_VALUES", 1)  # few points, too
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


def test_what_is_certified_is_exact(threads):
    names, points = list(clouds()), np.stack(list(clouds().values())).astype(np.float32)
    edges, is_certified = certified_edges(torch.from_numpy(points))
    told = {name for name, each in zip(names, is_certified, strict=True) if each}
    assert told >= CERTIFIED
    assert not told & NOT_CERTIFIED
    for name, found, cloud in zip(names, edges, points, strict=True):
        if name in told:
            np.testing.assert_allclose(np.sort(found), exact(cloud), rtol=1e-6, err_msg=name)
        else:
            assert np.isnan(found).all()


def test_what_is_not_goes_the_float64_way(monkeypatch, threads):
    monkeypatch.setattr(spanning, "WIDE", 1)
    monkeypatch.setattr(spanning, "MANY_VALUES", 1)
    hard = {name: cloud for name, cloud in clouds().items() if name != "overflowing"}
    points = np.stack(list(hard.values())).astype(np.float32)
    for name, found, cloud in zip(hard, mst_edges(points), points, strict=True):
        if name != "subnormal":  # whose squares vanish in float64, too: not what this is about
            np.testing.assert_allclose(found, exact(cloud), rtol=1e-6, err_msg=name)
    points[3, 2, 1] = np.nan
    with pytest.raises(NonFiniteError, match="trajectory 3 holds NaN"):
        mst_edges(points)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_narrow_dtype_as_ripser_and_scipy(dtype):
    points = torch.randn(6, 33, 130, generator=torch.Generator().manual_seed(3)).to(dtype)
    edges, is_certified = certified_edges(points)
    assert is_certified.all()
    for found, cloud in zip(np.sort(edges, 1), points.double().numpy(), strict=True):
        distances = squareform(pdist(cloud))
        np.testing.assert_allclose(found, np.sort(minimum_spanning_tree(distances).data), rtol=1e-6)
        deaths = ripser(distances, maxdim=0, distance_matrix=True)["dgms"][0][:-1, 1]
        np.testing.assert_allclose(found, np.sort(deaths), rtol=1e-6)


@pytest.mark.parametrize("n_points", [2, 3, 9, 33])
def test_chunks_and_clouds_of_any_size(n_points, monkeypatch, threads):
    points = torch.randn(13, n_points, D, generator=torch.Generator().manual_seed(7)) + 5
    monkeypatch.setattr(certified, "CHUNK_VALUES", 2 * n_points * D)  # the last chunk is not full
    edges, is_certified = certified_edges(points)
    assert is_certified.all()
    for found, cloud in zip(edges, points.numpy(), strict=True):
        np.testing.assert_allclose(np.sort(found), exact(cloud), rtol=1e-6)


def test_a_middle_is_taken_away_where_it_is_far_and_only_there(monkeypatch, threads):
    """Around 0 float32 would decide nothing here; the order makes chunks of far clouds, of near ones, and of both."""
    points = torch.randn(24, 16, D, generator=torch.Generator().manual_seed(9))
    far = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 1] * 2).bool()
    points[far] += 300 * torch.randn(D, generator=torch.Generator().manual_seed(10))
    points[:, 0] *= 3  # an attention sink makes no middle
    monkeypatch.setattr(certified, "CHUNK_VALUES", 5 * 16 * D)  # the last chunk is not full
    edges, is_certified = certified_edges(points)
    assert is_certified.all()
    for found, cloud in zip(edges, points.numpy(), strict=True):
        np.testing.assert_allclose(np.sort(found), exact(cloud), rtol=1e-6)
    grams = np.empty((24, 16, 16), np.float32)
    certified._grams(points.numpy(), grams)
    norms, others = np.diagonal(grams, axis1=1, axis2=2)[:, 1:], points[:, 1:]
    np.testing.assert_allclose(norms[~far], others[~far].square().sum(2), rtol=1e-4)
    assert (norms[far] < 3 * D).all()
    monkeypatch.setattr(certified.np, "subtract", lambda *args, **rest: 1 / 0)
    certified._grams(points[~far].numpy(), grams[:12])  # not copied


def test_points_in_any_order_of_memory():
    points = torch.randn(D, 5, 3, 24, generator=torch.Generator().manual_seed(13)).permute(1, 3, 0, 2)[..., 1]
    edges, is_certified = certified_edges(points)
    assert is_certified.all()
    np.testing.assert_array_equal(edges, certified_edges(points.contiguous())[0])


def test_a_middle_that_is_not_far_stays_certified():
    """Squared middle up to `NEAR` of the squared norms, and beyond it, where it is subtracted."""
    points = torch.randn(12, 32, D, generator=torch.Generator().manual_seed(11))
    points += torch.linspace(0, 2, 12)[:, None, None]
    edges, is_certified = certified_edges(points)
    assert is_certified.all()
    for found, cloud in zip(edges, points.numpy(), strict=True):
        np.testing.assert_allclose(np.sort(found), exact(cloud), rtol=1e-6)


@pytest.mark.parametrize("d_model", [certified.SUMMED - 1, certified.SUMMED + 1, 2 * certified.SUMMED, 1300])
def test_wide_points_are_summed_up_by_parts(d_model, monkeypatch, threads):
    for name in ("MEASURED_VALUES", "SHARED_VALUES"):
        monkeypatch.setattr(certified, name, 7 * d_model)  # the last chunk is not full
    points = torch.randn(5, 12, d_model, generator=torch.Generator().manual_seed(12))
    points[:, :, -1] *= 40  # the last part counts
    edges, is_certified = certified_edges(points)
    assert is_certified.all()
    for found, cloud in zip(edges, points.numpy(), strict=True):
        np.testing.assert_allclose(np.sort(found), exact(cloud), rtol=1e-6)


def test_what_is_dealt_to_threads_is_the_same_and_leaves_the_number_of_threads(monkeypatch):
    points = torch.randn(7, 24, D, generator=torch.Generator().manual_seed(8))
    before, grams, inside = torch.get_num_threads(), certified._grams, []

    def watched(some, out):
        inside.append((len(some), *blas_threads()))
        grams(some, out)

    try:
        monkeypatch.setattr(certified, "SHARE_VALUES", 1)
        torch.set_num_threads(1)
        alone, _ = certified_edges(points)
        torch.set_num_threads(3)
        monkeypatch.setattr(certified, "_grams", watched)
        own = blas_threads()
        dealt, is_certified = certified_edges(points)
        assert sorted(inside) == [(2, 1), (2, 1), (3, 1)]
        assert blas_threads() == own
        with certified._DEALING:  # somebody else's are dealt just now
            undealt, _ = certified_edges(points)
        assert inside[3:] == [(7, *own)]
        few, _ = certified_edges(points[:2])  # fewer than threads
        assert inside[4:] == [(1, 1), (1, 1)]
        monkeypatch.setattr(certified, "SHARE_VALUES", points.numel() // 2)  # enough for two
        certified_edges(points)
        assert sorted(inside[6:]) == [(3, 1), (4, 1)]
        monkeypatch.setattr(certified, "SHARE_VALUES", points.numel() + 1)
        certified_edges(points)
        assert inside[8:] == [(7, 1)]
        monkeypatch.setattr(certified, "_measured", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            certified_edges(points)
        assert blas_threads() == own
        assert not certified._DEALING.locked()
    finally:
        torch.set_num_threads(before)
    assert is_certified.all()
    for found, wanted in ((dealt, alone), (undealt, alone), (few, alone[:2])):
        np.testing.assert_array_equal(np.sort(found), np.sort(wanted))


def blas_threads():
    """Of numpy's library of products, which may be there more than once."""
    return {each["num_threads"] for each in certified._blas().info()}


def test_a_tree_that_float32_gets_wrong_is_put_right(monkeypatch):
    """Products as wrong as their bound allows, against each tree: the edges stay exact."""
    points = torch.randn(20, 24, 64, generator=torch.Generator().manual_seed(4))
    distances = np.stack([squareform(pdist(cloud)) for cloud in points.double().numpy()])
    in_tree = np.stack([(t := minimum_spanning_tree(d).toarray() > 0) | t.T for d in distances])
    right = certified._grams

    def misleading(points, out):
        right(points, out)
        grams = out.copy()
        norms = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))
        error = 0.9 * points.shape[-1] * certified.UNIT * norms[:, :, None] * norms[:, None, :]
        off = ~np.eye(grams.shape[1], dtype=bool)
        out += (np.where(in_tree, -error, error) * off).astype(np.float32)

    monkeypatch.setattr(certified, "_grams", misleading)
    monkeypatch.setattr(certified.torch, "get_num_threads", lambda: 1)
    edges, is_certified = certified_edges(points)
    assert is_certified.all()
    for found, d in zip(np.sort(edges, 1), distances, strict=True):
        np.testing.assert_allclose(found, np.sort(minimum_spanning_tree(d).data), rtol=1e-6)


def test_pairs_left_out_are_longest_edges_of_cycles():
    rng = np.random.default_rng(5)
    upper = rng.uniform(1, 2, (3, 12, 12))
    upper[:, 0] += 1  # the first edge is the longest
    upper = np.maximum(upper, upper.transpose(0, 2, 1)).astype(np.float32)
    slack = rng.uniform(0, 0.05, (3, 12)).astype(np.float32)
    left, right = near_pairs(upper, slack)
    near = np.zeros((3, 12, 12), bool)
    near[left // 12, left % 12, right % 12] = True
    near |= near.transpose(0, 2, 1)
    for cloud, allowed, margin in zip(upper, near, slack, strict=True):
        longest = cloud.copy()
        np.fill_diagonal(longest, 0)
        for k in range(12):  # minimax paths
            longest = np.minimum(longest, np.maximum(longest[:, k, None], longest[None, k]))
        low = cloud - margin[:, None] - margin
        off = ~np.eye(12, dtype=bool)
        np.testing.assert_array_equal(allowed[off], (low < longest)[off])
    assert len(left) < 3 * 30
    assert (np.diff(left) >= 0).all()


def test_many_wide_float32_clouds_take_the_fast_way(monkeypatch):
    calls = []
    monkeypatch.setattr(spanning, "certified_edges", lambda points: calls.append(1) or certified_edges(points))
    points = torch.randn(40, 32, 1024, generator=torch.Generator().manual_seed(6))
    fast = mst_edges(points)
    assert calls
    np.testing.assert_allclose(fast, mst_edges(points.double()), rtol=1e-6)
    mst_edges(points, [32] * 39 + [31])  # padding
    mst_edges(points[:, :, :64])
    mst_edges(points[:2])
    assert len(calls) == 1
