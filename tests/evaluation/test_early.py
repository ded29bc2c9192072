"""Early detection: a shape that shows late is not claimed early, and what length alone knows is no shape."""

import numpy as np
import pytest
import torch

from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation.early import early_detection
from mechsteer.results import from_json, to_json

FEW = {"n_boot": 200, "n_permutations": 99}


def traces(seed, *, late=0.0, long=0, n_problems=40, per_problem=4):
    """Walks whose second half has larger steps in right ones (`late`), or that are longer there (`long`)."""
    rng = np.random.default_rng(seed)
    groups = [str(i // per_problem) for i in range(n_problems * per_problem)]
    right = [bool(i % 2) for i in range(n_problems * per_problem)]
    clouds = []
    for good in right:
        n = int(rng.integers(32, 44)) + long * good
        size = 1 + late * good * (np.arange(n) >= n // 2 + 1)
        clouds.append(torch.from_numpy((size[:, None] * rng.standard_normal((n, 4))).cumsum(0)))
    return clouds, right, groups


def test_a_late_shape_shows_late():
    result = early_detection(*traces(0, late=1.5), site="s", window=8, **FEW)
    assert [each.share for each in result.shares] == [0.25, 0.5, 0.75, 1.0]
    early, _, later, whole = result.shares
    assert early.shape_within.low < 0.5 < early.shape_within.high
    assert early.p_value > 0.02
    assert later.shape_within.low > 0.5
    assert whole.shape_within.value > 0.9
    assert whole.beyond.low > 0
    assert whole.mean_tokens > 3.5 * early.mean_tokens
    assert from_json(type(result), to_json(result)) == result


def test_length_has_a_line_of_its_own():
    result = early_detection(*traces(1, long=12), window=8, **FEW)
    for each in result.shares:
        assert each.length_within.low > 0.8
        assert each.beyond.low <= 0


def test_short_and_undefined_are_told():
    clouds, right, groups = traces(2)
    clouds[:3] = [cloud[:9] for cloud in clouds[:3]]
    for i in range(3, len(clouds), 7):
        clouds[i] = clouds[i] * 0 + clouds[i][:1]  # it stands still: no turning, no straightness
    result = early_detection(clouds, right, groups, window=8, shares=[0.5], **FEW)
    assert result.n_too_short == 3
    assert result.n_traces == len(clouds) - 3
    assert "kin_straightness" in result.undefined
    assert "h0_total" in result.features


def test_refusals():
    clouds, right, groups = traces(3, n_problems=4)
    with pytest.raises(ConfigError, match="shares are"):
        early_detection(clouds, right, groups, shares=[0.5, 1.5])
    with pytest.raises(DataError, match="no trace has 99 tokens in its first 25%"):
        early_detection(clouds, right, groups, window=99)
    with pytest.raises(DataError, match="two classes are needed"):
        early_detection(clouds, [True] * len(clouds), groups)
