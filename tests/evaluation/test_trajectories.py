"""Topology beside the text: length of any shape explains nothing, a planted shape is found, what is dropped is told."""

import numpy as np
import pytest
import torch

from mechsteer.evaluation.trajectories import trajectory_topology
from mechsteer.results import from_json, to_json


def walks(seed, planted=0.0, n_problems=60, bent=0.0):
    """Random walks of attempts at problems. `planted`: right ones have more even steps; `bent`: middling lengths are right."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_problems), 4)
    lengths = rng.integers(12, 60, len(groups))
    z = (lengths - 36) / 14
    right = bent * (1 - z**2) + rng.logistic(size=len(groups)) > 0
    clouds = []
    for length, good in zip(lengths, right, strict=True):
        size = np.exp((1.2 - planted * good) * rng.standard_normal((length, 1)))
        clouds.append(torch.from_numpy((size * rng.standard_normal((length, 5))).cumsum(0)))
    return clouds, right.tolist(), [str(g) for g in groups], lengths


def by_name(result):
    return {effect.name: effect for effect in result.effects}


def test_a_bent_length_is_no_topology():
    clouds, right, groups, _ = walks(0, bent=2.0)
    result = trajectory_topology(clouds, right, groups, site="s", n_points=16)
    raw = by_name(result)["raw H0 entropy"]
    assert raw.within_problems.low < 0 < raw.within_problems.high
    assert not any(effect.beyond for effect in result.effects)
    assert result.raw_rank_correlation > 0.8 > abs(result.spaced_rank_correlation)


def test_a_planted_shape_is_found_at_matched_spacing():
    clouds, right, groups, _ = walks(1, planted=0.5)
    found = by_name(trajectory_topology(clouds, right, groups, site="s", n_points=16))
    effect = found["H0 entropy at matched spacing"]
    assert effect.within_problems.low > 0
    assert effect.beside_text.low > 0
    assert effect.beyond
    assert found["length alone"].beside_text is None


def test_a_covariate_that_knows_takes_the_claim_away():
    clouds, right, groups, _ = walks(1, planted=0.9)
    noise = 0.3 * np.random.default_rng(0).standard_normal(len(right))
    knows = {"counts": np.array(right) + noise}
    result = trajectory_topology(clouds, right, groups, site="s", n_points=16, covariates=knows)
    assert result.covariates == ("length", "counts")
    assert not by_name(result)["H0 entropy at matched spacing"].beyond


def test_what_is_left_out_is_counted_by_outcome_and_style():
    clouds, right, groups, lengths = walks(2)
    styles = ["hasty" if length < 30 else "careful" for length in lengths]
    result = trajectory_topology(clouds, right, groups, site="s", n_points=20, limit=10**6, styles=styles)
    short = lengths < 20
    assert result.too_short.n == short.sum()
    assert result.too_short.n_right == sum(np.array(right)[short])
    assert result.too_short.styles == {"hasty": int(short.sum())}
    assert result.used.n_wrong == sum(~np.array(right)[~short])
    assert result.used.share_right == pytest.approx(np.array(right)[~short].mean())
    assert result.constant == ("token limit",)
    assert result.covariates == ("length", "style")
    assert from_json(type(result), to_json(result)) == result


def test_matched_spacing_does_not_stretch_with_length():
    """A straight path in equal steps: spread points lie further apart in longer ones, neighbours never do."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(20, 80, 40)
    paths = [torch.arange(float(n))[:, None] + 0.01 * torch.rand(n, 2).double() for n in lengths]
    right = [bool(i % 2) for i in range(40)]
    result = trajectory_topology(paths, right, [str(i // 4) for i in range(40)], site="s", n_points=16)
    assert result.means["h0_total"] == pytest.approx(np.mean(lengths) * 2**0.5, rel=0.05)
    assert np.isfinite(result.spaced_rank_correlation)
