"""Directions against planted answers, scikit-learn and algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toys
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import mechsteer as ms
from mechsteer import directions
from mechsteer.directions.direction import separation
from mechsteer.directions.extract import _held_out
from mechsteer.errors import ConfigError, DataError, MechsteerWarning, NonFiniteError, ShapeError
from mechsteer.prompts import ContrastivePairs

D = 24


def planted(n: int = 200, *, seed: int = 0, noise: float = 0.5, spread: float = 0.0):
    """Pairs that share a large nuisance and differ by +2 u; with `spread`, also vary along another axis w."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))
    u, w = q[:, 0], q[:, 1]
    shared = 3 * torch.randn(n, D, generator=generator, dtype=torch.float64)
    jitter = noise * torch.randn(2, n, D, generator=generator, dtype=torch.float64)
    sway = spread * torch.randn(n, 1, generator=generator, dtype=torch.float64) * w
    return shared + u + jitter[0] + sway, shared - u + jitter[1], u, w


def cosine(a, b) -> float:
    return float(torch.cosine_similarity(a.double(), b.double(), dim=0))


def test_mean_difference_is_the_difference_of_means() -> None:
    pos, neg, u, _ = planted()
    found = ms.directions.mean_difference(pos.float(), neg[:150].float())
    torch.testing.assert_close(found.vector, pos.float().mean(0) - neg[:150].float().mean(0))
    assert cosine(directions.mean_difference(pos, neg).vector, u) > 0.99
    assert (found.provenance["n_pos"], found.provenance["n_neg"]) == (200, 150)
    half = directions.mean_difference(pos.half(), neg.half())
    assert half.vector.dtype == torch.float32
    assert torch.equal(ms.adapters.Static(found).vector, found.vector)


def test_pairwise_pca_is_the_first_axis_about_zero() -> None:
    pos, neg, u, _ = planted()
    found = directions.pairwise_pca(pos, neg)
    moment = (pos - neg).T @ (pos - neg)
    values, axes = torch.linalg.eigh(moment)
    assert abs(cosine(found.vector, axes[:, -1])) > 1 - 1e-9
    assert cosine(found.vector, u) > 0.99
    assert found.provenance["explained_differences"] == pytest.approx(float(values[-1] / values.sum()), rel=1e-9)
    assert found.norm == pytest.approx(float((values[-1] / len(pos)).sqrt()), rel=1e-9)
    assert cosine(directions.pairwise_pca(neg, pos).vector, found.vector) < -1 + 1e-9  # the sign follows the data
    # what re-centring would lose: the differences vary most along w, and all share u
    pos, neg, u, w = planted(spread=0.7, noise=0.2)
    centred = (pos - neg) - (pos - neg).mean(0)
    assert abs(cosine(torch.linalg.svd(centred)[2][0], w)) > 0.9
    assert cosine(directions.pairwise_pca(pos, neg).vector, u) > 0.9


def test_degenerate_directions_warn() -> None:
    pos, neg, _, w = planted(spread=50.0, seed=1)
    with pytest.warns(MechsteerWarning, match="sign means nothing"):
        found = directions.pairwise_pca(pos, neg)
    assert abs(cosine(found.vector, w)) > 0.99
    x = torch.randn(50, D, generator=torch.Generator().manual_seed(0))
    with pytest.warns(MechsteerWarning, match="all but coincide"):
        directions.mean_difference(x, x.flip(0))
    with pytest.warns(MechsteerWarning, match="all but coincide"):
        directions.logistic(x, x)
    with pytest.warns(MechsteerWarning, match="all but coincide"):
        directions.singular_space(x, x, torch.eye(D))
    with pytest.warns(MechsteerWarning, match="sign means nothing"):
        directions.pairwise_pca(x, x)


def test_logistic_is_scikit_learns_normal_in_the_original_space() -> None:
    pos, neg, _, _ = planted(noise=1.5)
    scale = torch.logspace(-2, 2, D, dtype=torch.float64)  # standardising must be undone
    pos, neg = pos * scale, neg * scale
    found = directions.logistic(pos, neg, C=0.1)
    x = torch.cat([pos, neg]).numpy()
    mean, std = x.mean(0), x.std(0)
    y = np.repeat([1, 0], 200)
    model = LogisticRegression(C=0.1, max_iter=5000, tol=1e-8).fit((x - mean) / std, y)
    assert cosine(found.vector, torch.from_numpy(model.coef_[0] / std)) > 1 - 1e-5
    gap = (pos.mean(0) - neg.mean(0)) @ found.unit().vector
    assert found.norm == pytest.approx(float(gap), rel=1e-9)


def test_singular_space_keeps_the_rows_that_separate() -> None:
    pos, neg, u, _ = planted()
    q, _ = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    rows = q.T
    everything = directions.singular_space(pos, neg, rows, k=D)
    torch.testing.assert_close(everything.vector, pos.mean(0) - neg.mean(0))
    across = rows[0] - (rows[0] @ u) * u
    one = directions.singular_space(pos, neg, torch.stack([across / across.norm(), u]), k=1)
    assert one.provenance["rows"] == [1]
    assert cosine(one.vector, u) > 1 - 1e-9
    with pytest.raises(ShapeError, match="not orthonormal"):
        directions.singular_space(pos, neg, 2 * rows)
    with pytest.raises(ShapeError, match="for samples of 24"):
        directions.singular_space(pos, neg, rows[:, :5])


def test_explained_variance_and_separation_by_hand() -> None:
    pos, neg, _, _ = planted(noise=2.0)
    found = directions.mean_difference(pos, neg)
    x = torch.cat([pos, neg]).numpy()
    share = (x @ found.unit().vector.numpy()).var() / x.var(0).sum()
    assert found.provenance["explained_variance"] == pytest.approx(share, rel=1e-9)
    new_pos, new_neg, _, _ = planted(noise=2.0, seed=0)
    held = directions.separation(found, new_pos[:50], new_neg[:30])
    scores = torch.cat([new_pos[:50], new_neg[:30]]) @ found.vector
    labels = [1] * 50 + [0] * 30
    assert held["auroc"] == pytest.approx(roc_auc_score(labels, scores))
    middle = float((pos.mean(0) + neg.mean(0)) @ found.vector) / 2
    right = ((scores[:50] > middle).float().mean() + (scores[50:] <= middle).float().mean()) / 2
    assert held["accuracy"] == pytest.approx(float(right))


def test_random_direction_has_the_norm_and_no_orientation() -> None:
    like = directions.from_sae(3 * torch.eye(D), 4)
    assert like.provenance["feature"] == 4
    draws = torch.stack(
        [directions.random_direction(like, torch.Generator().manual_seed(i)).vector for i in range(400)]
    )
    torch.testing.assert_close(draws.norm(dim=1), torch.full((400,), 3.0))
    assert draws.mean(0).norm() < 4 * 3 / 20
    again = directions.random_direction(like.vector, torch.Generator().manual_seed(0))
    assert torch.equal(again.vector, draws[0])
    with pytest.raises(ShapeError, match="no row 24"):
        directions.from_sae(torch.eye(D), 24)


def test_bad_samples() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ShapeError, match=r"pos is torch\.float32 \(3,\)"):
        directions.mean_difference(x[0], x)
    with pytest.raises(ShapeError, match="d_model 3, neg 2"):
        directions.mean_difference(x, x[:, :2])
    with pytest.raises(DataError, match="neg has no samples"):
        directions.mean_difference(x, x[:0])
    with pytest.raises(NonFiniteError, match="pos holds NaN"):
        directions.mean_difference(x / 0, x)
    with pytest.raises(ShapeError, match="no pairs"):
        directions.pairwise_pca(x, x[:2])


@pytest.fixture(scope="module")
def model():
    return ms.load_model(toys.hf_model("llama"), tokenizer=toys.tokenizer())


@pytest.fixture(scope="module")
def pairs():
    return ContrastivePairs(
        [f"item {i}: good" for i in range(40)], [f"item {i}: evil" for i in range(40)], [i // 4 for i in range(40)]
    )


@pytest.mark.parametrize("method", sorted(directions.METHODS))
@pytest.mark.parametrize("position", ["last", "mean"])
def test_extract_on_a_model(model, pairs, method, position) -> None:
    site = ms.Site(0.5)
    found = directions.extract(model, pairs, site, method, position=position)
    note = found.provenance
    assert (note["site"], note["positions"], note["method"]) == ({"layer": 1, "point": "resid_post"}, position, method)
    assert note["data_hash"] == pairs.data_hash
    assert note["held_out"]["n_pos"] == note["held_out"]["n_neg"] == 12  # 3 of 10 groups
    assert (note["n_pos"], note["n_neg"]) == (40, 40)  # the direction itself is of all
    assert note["held_out"]["auroc"] > 0.95  # the last words differ


def test_extract_uses_the_rows_it_says(model, pairs) -> None:
    site = ms.Site(1)
    found = directions.extract(model, pairs, site, held_out=0.0)
    assert found.provenance["held_out"] is None
    sides = [ms.capture(model, list(side), [site], progress=False)[site] for side in (pairs.positive, pairs.negative)]
    last = [s.values[torch.arange(40), s.lengths - 1].mean(0) for s in sides]
    torch.testing.assert_close(found.vector, last[0] - last[1], atol=1e-4, rtol=1e-4)
    tuples = directions.extract(model, list(pairs), site, held_out=0.0)
    assert torch.equal(tuples.vector, found.vector)
    measured = [directions.extract(model, pairs, site, seed=seed) for seed in (0, 1)]
    assert all(torch.equal(one.vector, found.vector) for one in measured)  # of all pairs, whatever was held out
    for seed, one in enumerate(measured):
        test = torch.tensor(_held_out(pairs.groups, 0.3, seed))
        pos, neg = (s.values[torch.arange(40), s.lengths - 1] for s in sides)
        of_others = directions.METHODS["mean_difference"](pos[~test], neg[~test])
        assert one.provenance["held_out"] == pytest.approx(separation(of_others, pos[test], neg[test]), abs=1e-6)
    z = directions.extract(model, pairs, ms.Site(1, "z"))
    assert z.vector.shape == (32,)
    with pytest.raises(ConfigError, match="unknown method 'pca'"):
        directions.extract(model, pairs, site, "pca")
    with pytest.raises(ConfigError, match="held_out is 1"):
        directions.extract(model, pairs, site, held_out=1)


def test_what_is_held_out_is_not_in_the_direction_it_is_measured_by(model) -> None:
    """Texts that differ in nothing: the direction of all pairs tells its own pairs apart, that of the others does not."""
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list("abcdefghij"), 6)) for _ in range(40)]
    noise, site = ContrastivePairs(texts[:20], texts[20:], [str(i) for i in range(20)]), ms.Site(1)
    found = directions.extract(model, noise, site)
    test = torch.tensor(_held_out(noise.groups, 0.3, 0))
    pos, neg = (
        ms.capture(model, list(side), [site], progress=False)[site].pool("last")
        for side in (noise.positive, noise.negative)
    )
    by_all = separation(found, pos[test], neg[test])
    by_others = separation(directions.METHODS["mean_difference"](pos[~test], neg[~test]), pos[test], neg[test])
    assert by_all["auroc"] > by_others["auroc"] + 0.1
    assert found.provenance["held_out"]["auroc"] == pytest.approx(by_others["auroc"], abs=1e-6)
