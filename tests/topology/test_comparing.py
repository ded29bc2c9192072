"""Distances between kinds of diagrams: nothing where kinds are drawn, something where a shape is planted, and no more."""

import numpy as np
import pytest
import torch

from mechsteer.errors import ConfigError, DataError, ShapeError
from mechsteer.models.sites import Site
from mechsteer.topology import bottleneck, diagram_gap, distance_matrix, layer_frame, permuted_within, trace_frame


def diagrams(seed, kinds, planted=0.0):
    rng = np.random.default_rng(seed)
    return [np.column_stack([np.zeros(6), rng.uniform(1, 2, 6) * (1 + planted * kind)]) for kind in kinds]


def test_matrix_is_the_distances_of_pairs():
    some = diagrams(0, [0, 0, 1])
    found = distance_matrix(some, "bottleneck")
    assert found[0, 2] == found[2, 0] == bottleneck(some[0], some[2])
    assert np.diagonal(found).tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match="distance is 'hausdorff'"):
        distance_matrix(some, "hausdorff")


def test_the_statistic_by_hand():
    """Points on a line: R = {0, 2}, W = {5, 9}."""
    at = np.array([0.0, 2.0, 5.0, 9.0])
    gap = diagram_gap(np.abs(np.subtract.outer(at, at)), [True, True, False, False], np.zeros(4), n_permutations=0)
    assert (gap.between, gap.within, gap.gap) == (6.0, 3.0, 6.0)
    assert np.isnan(gap.p_value)


def test_a_planted_shape_is_found_and_drawn_kinds_are_not():
    kinds, problems = np.tile([0, 1, 1, 0], 8), np.repeat(np.arange(8), 4)
    planted = diagram_gap(distance_matrix(diagrams(1, kinds, 0.5)), kinds, problems, n_permutations=199)
    assert planted.p_value == 1 / 200
    assert planted.gap > planted.null.high
    p = [
        diagram_gap(distance_matrix(diagrams(seed, kinds)), kinds, problems, n_permutations=99, seed=seed).p_value
        for seed in range(2, 32)
    ]
    assert 0.3 < np.mean(p) < 0.7
    assert np.mean(np.array(p) <= 0.1) <= 0.25


def test_what_all_traces_of_a_problem_share_is_no_difference():
    """Problems differ greatly and one kind is commoner in some: only permutations within problems know that it is nothing."""
    rng = np.random.default_rng(0)
    problems = np.repeat(np.arange(10), 6)
    kinds = rng.random(60) < np.where(problems < 5, 0.8, 0.2)
    at = 10.0 * (problems < 5) + rng.standard_normal(60)
    distances = np.abs(np.subtract.outer(at, at))
    assert diagram_gap(distances, kinds, problems, n_permutations=199).p_value > 0.05
    assert diagram_gap(distances, kinds, np.zeros(60), n_permutations=199).p_value == 1 / 200


def test_members_of_a_pair_are_left_out_of_the_mean():
    """Before R = {0, 2}, after W = {5, 9}, pairs (0, 5) and (2, 9)."""
    at = np.array([0.0, 2.0, 5.0, 9.0])
    apart, first = np.abs(np.subtract.outer(at, at)), [True, True, False, False]
    gap = diagram_gap(apart, first, [0, 1, 0, 1], paired=True, n_permutations=0)
    assert (gap.between, gap.within, gap.gap) == (6.0, 3.0, 6.0)  # of |0 - 9| and |2 - 5|
    same = np.abs(np.subtract.outer(np.tile(at, 2), np.tile(at, 2)))
    nothing = diagram_gap(same, [True] * 4 + [False] * 4, np.tile(np.arange(4), 2), paired=True, n_permutations=99)
    assert abs(nothing.gap) < 1e-12
    assert nothing.p_value == 1.0
    with pytest.raises(DataError, match="4 trajectories in 1 groups are no pairs"):
        diagram_gap(apart, first, np.zeros(4), paired=True)


def test_permutations_stay_within_groups():
    kinds, groups = np.array([True, False, True, True]), np.array(["a", "a", "b", "b"])
    drawn = permuted_within(kinds, groups, 40, seed=0)
    assert (drawn[:, :2].sum(1) == 1).all()
    assert drawn[:, 2:].all()
    assert len(np.unique(drawn[:, 0])) == 2


def test_refusals():
    with pytest.raises(DataError, match="1 trajectories of one kind and 2 of the other"):
        diagram_gap(np.zeros((3, 3)), [True, False, False], np.zeros(3))
    with pytest.raises(ShapeError, match="do not fit"):
        diagram_gap(np.zeros((3, 3)), [True, False], np.zeros(2))
    with pytest.raises(DataError, match="no activations of several sites"):
        layer_frame([torch.zeros(3, 2)])


def test_a_frame_over_layers_is_the_frames_of_its_layers():
    rng = np.random.default_rng(0)
    acts = {Site(1): [rng.standard_normal((9, 3))], Site(2): [rng.standard_normal((9, 3))]}
    frame = layer_frame(acts, n_points=5)
    assert frame["site"].tolist() == ["resid_post@1", "resid_post@2"]
    assert frame["layer"].tolist() == [1, 2]
    assert frame.columns[:3].tolist() == ["site", "layer", "trace"]
    assert frame["h0_total"][1] == trace_frame(acts[Site(2)], n_points=5)["h0_total"][0]
