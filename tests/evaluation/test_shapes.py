"""Diagrams of two kinds: a planted shape is found, drawn kinds and length are not taken for one, what is left out is told."""

import numpy as np
import pytest
import torch

from mechsteer.errors import DataError
from mechsteer.evaluation.shapes import before_and_after, compare_shapes
from mechsteer.evaluation.trajectory_layers import topology_over_layers
from mechsteer.results import from_json, to_json
from mechsteer.topology import betti_curve, summarize

OPTIONS = {"n_points": 12, "n_permutations": 199}


def walks(seed, planted=0.0, n_problems=10, lengths=(14, 30), per_problem=4):
    """Random walks; those of the first kind have uneven steps where something is planted."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_problems), per_problem)
    first = np.tile([True, False] * (per_problem // 2), n_problems)
    clouds = []
    for good in first:
        n = int(rng.integers(*lengths))
        size = np.exp(planted * good * rng.standard_normal((n, 1)))
        clouds.append(torch.from_numpy((size * rng.standard_normal((n, 4))).cumsum(0)))
    return clouds, first.tolist(), [str(g) for g in groups]


def by_name(result):
    return {(gap.matching, gap.dimension, gap.by_kind.distance): gap for gap in result.gaps}


def test_a_planted_shape_is_found_in_every_form():
    clouds, first, groups = walks(0, planted=1.0)
    result = compare_shapes(clouds, first, groups, site="s", **OPTIONS)
    gaps = by_name(result)
    assert len(gaps) == 8  # two ways of matching, two dimensions, two distances
    assert gaps["neighbouring", "H0", "wasserstein"].by_kind.p_value == 1 / 200
    assert gaps["neighbouring", "H0", "wasserstein"].by_length.p_value > 0.01
    curve = next(c for c in result.curves if (c.matching, c.name) == ("neighbouring", "Betti curve of H0"))
    assert curve.p_value == 1 / 200
    assert ((curve.first - curve.second < curve.null_low) | (curve.first - curve.second > curve.null_high)).any()
    assert from_json(type(result), to_json(result)) == result


def test_drawn_kinds_are_no_difference():
    p = []
    for seed in range(10, 14):
        clouds, first, groups = walks(seed, n_problems=7)
        p += [gap.by_kind.p_value for gap in compare_shapes(clouds, first, groups, **OPTIONS).gaps]
    assert np.mean(np.array(p) <= 0.05) < 0.2
    assert 0.2 < np.mean(p) < 0.8


def test_length_alone_shows_beside_points_spread_over_the_trace():
    """Kinds of one shape and two lengths: spread points tell them apart, neighbouring ones do not, and length says so."""
    rng = np.random.default_rng(3)
    first = [True, False] * 16
    clouds = [torch.from_numpy(rng.standard_normal((40 if good else 13, 4)).cumsum(0)) for good in first]
    gaps = by_name(compare_shapes(clouds, first, [str(i // 4) for i in range(32)], **OPTIONS))
    spread, near = gaps["spread", "H0", "wasserstein"], gaps["neighbouring", "H0", "wasserstein"]
    assert spread.by_kind.p_value == 1 / 200
    assert spread.by_length.gap == pytest.approx(spread.by_kind.gap)
    assert near.by_kind.p_value > 0.02


def test_betti_curves_are_means_of_the_curves():
    clouds, first, groups = walks(4, lengths=(12, 13), n_problems=2)
    result = compare_shapes(clouds, first, groups, **OPTIONS)
    curve = next(c for c in result.curves if c.name == "Betti curve of H1")
    own = [betti_curve(summarize(c).h1.bars, curve.radii) for c, good in zip(clouds, first, strict=True) if good]
    np.testing.assert_allclose(curve.first, np.mean(own, axis=0))
    zero = next(c for c in result.curves if c.name == "Betti curve of H0")
    assert zero.first[0] == 12  # before anything is joined
    assert zero.first[-1] == 1  # the component that never ends
    assert [image.first.shape for image in result.images] == [(20, 20)] * 2


def test_pairs_before_and_after():
    rng = np.random.default_rng(5)
    before = [torch.from_numpy(rng.standard_normal((20, 4))) for _ in range(14)]
    shifted = before_and_after(before, [cloud + 7 for cloud in before], **OPTIONS)
    assert all(abs(gap.by_kind.gap) <= 1e-5 for gap in shifted.gaps)  # topology does not see a shift
    assert all(gap.by_kind.p_value > 0.9 for gap in shifted.gaps)
    assert all(gap.by_length is None for gap in shifted.gaps)
    scaled = by_name(before_and_after(before, [2 * cloud for cloud in before], **OPTIONS))
    assert scaled["spread", "H0", "bottleneck"].by_kind.p_value == 1 / 200
    assert scaled["spread", "H0", "bottleneck"].by_kind.n_mixed_groups == 14
    with pytest.raises(DataError, match="14 trajectories before and 1 after"):
        before_and_after(before, before[:1])


def test_what_cannot_be_compared_is_left_out_and_told():
    clouds, first, groups = walks(6, lengths=(8, 20))
    result = compare_shapes(clouds, first, groups, **OPTIONS)
    short = [len(cloud) < 12 for cloud in clouds]
    assert sum(result.n_too_short) == sum(short)
    assert sum(result.n_used) <= len(clouds) - sum(short)
    few = compare_shapes(clouds, first, groups, most=8, **OPTIONS)
    assert sum(few.n_used) <= 8
    with pytest.raises(DataError, match="0 right and 0 wrong ones can be compared"):
        compare_shapes(clouds, [True] * len(clouds), groups, **OPTIONS)
    with pytest.raises(DataError, match="of 99 tokens"):
        compare_shapes(clouds, first, groups, n_points=99)


def test_over_layers_all_features_are_tested_at_once():
    clouds, first, groups = walks(7, planted=0.6, n_problems=20)
    nothing = [torch.from_numpy(np.random.default_rng(i).standard_normal((len(c), 4))) for i, c in enumerate(clouds)]
    result = topology_over_layers({"resid_post@1": nothing, "resid_post@2": clouds}, first, groups, n_points=12)
    assert [layer.site for layer in result.layers] == ["resid_post@1", "resid_post@2"]
    found = [any(effect.beyond for effect in layer.effects) for layer in result.layers]
    assert found == [False, True]
    with pytest.raises(DataError, match="no site to compare"):
        topology_over_layers({}, first, groups)
