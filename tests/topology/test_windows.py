"""Matched lengths, the tidy frame of ragged traces, and kinematics of curves with known geometry."""

import numpy as np
import pytest
import torch

from mechsteer.errors import ConfigError, DataError
from mechsteer.topology import kinematics, resample, summarize, trace_frame, windows


@pytest.fixture
def traces():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((n, 6)) for name, n in (("a", 20), ("b", 7), ("c", 20))}


def test_windows():
    assert windows(6, 3) == [slice(0, 3), slice(3, 6)]
    assert windows(2, 3) == []
    with pytest.raises(ConfigError, match="stride 0"):
        windows(5, 2, 0)


def test_resample_picks_real_points():
    points = torch.randn(11, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resample(points, 11), points)
    assert torch.equal(resample(points, 3), points[[0, 5, 10]])
    with pytest.raises(DataError, match="11 points cannot be resampled to 12"):
        resample(points, 12)


def test_frame_rows_equal_summaries(traces):
    frame = trace_frame(traces, dims=(0, 1))
    assert frame["trace"].tolist() == ["a", "b", "c"]
    assert frame["n"].tolist() == [20, 7, 20]
    for row, points in zip(frame.itertuples(), traces.values(), strict=True):
        summary = summarize(points)
        assert row.h0_entropy_nats == pytest.approx(summary.h0.entropy_nats, rel=1e-12)
        assert row.h1_total == pytest.approx(summary.h1.total)
        assert row.kin_effective_dim == pytest.approx(kinematics(points).effective_dim)


def test_matched_length_keeps_short_traces_visible(traces):
    frame = trace_frame(traces, n_points=10)
    assert frame["n"].tolist() == [10, 7, 10]
    assert frame["h0_entropy_nats"].isna().tolist() == [False, True, False]
    assert (frame["h0_n_bars"].dropna() == 9).all()
    expected = summarize(resample(torch.from_numpy(traces["c"]), 10), dims=(0,)).h0
    assert frame["h0_entropy_nats"][2] == pytest.approx(expected.entropy_nats)


def test_segments_and_windows(traces):
    segments = {"a": {"question": (0, 6), "answer": (6, 20)}, "b": {"answer": (0, 0)}, "c": {"answer": (2, 20)}}
    frame = trace_frame(traces, segments=segments, window=4, stride=5)
    assert list(zip(frame["trace"], frame["segment"], frame["start"], frame["n"], strict=True)) == [
        ("a", "question", 0, 4),
        ("a", "answer", 6, 4),
        ("a", "answer", 11, 4),
        ("a", "answer", 16, 4),
        ("b", "answer", 0, 0),
        ("c", "answer", 2, 4),
        ("c", "answer", 7, 4),
        ("c", "answer", 12, 4),
    ]
    expected = summarize(traces["c"][7:11], dims=(0,), metric="euclidean").h0
    assert frame["h0_total"][6] == pytest.approx(expected.total)


def test_frame_prepares_each_piece(traces):
    frame = trace_frame(traces, metric="cosine", zscore=True)
    expected = summarize(traces["b"], dims=(0,), metric="cosine", zscore=True).h0
    assert frame["h0_total"][1] == pytest.approx(expected.total)


def test_sequences_and_parquet(traces, tmp_path):
    frame = trace_frame([torch.from_numpy(points).float() for points in traces.values()])
    assert frame["trace"].tolist() == [0, 1, 2]
    frame.to_parquet(tmp_path / "frame.parquet")
    assert trace_frame([]).empty


def test_frame_refusals(traces):
    with pytest.raises(ConfigError, match="both window and n_points"):
        trace_frame(traces, window=3, n_points=3)
    with pytest.raises(DataError, match="trace 'b' has no segments"):
        trace_frame(traces, segments={"a": {"all": (0, 20)}})
    with pytest.raises(DataError, match=r"\[0, 21\) and the trace has 20 points"):
        trace_frame(traces, segments={"a": {"all": (0, 21)}})


def test_kinematics_of_a_circle():
    n, radius = 60, 2.0
    angles = 2 * np.pi * np.arange(n) / n
    result = kinematics(radius * np.column_stack([np.cos(angles), np.sin(angles)]))
    assert result.step_mean == pytest.approx(2 * radius * np.sin(np.pi / n))
    assert result.turning_angle == pytest.approx(2 * np.pi / n)
    assert result.curvature == pytest.approx(1 / radius, rel=1e-3)
    assert result.step_entropy_nats == pytest.approx(np.log(n - 1))
    assert result.effective_dim == pytest.approx(2, rel=1e-6)


def test_kinematics_of_a_line_and_of_few_points():
    line = kinematics(np.outer(np.arange(8.0), [3.0, 4.0]))
    assert (line.turning_angle, line.straightness) == pytest.approx((0, 1), abs=1e-7)
    assert (line.step_mean, line.effective_dim) == pytest.approx((5, 1))
    point = kinematics(np.ones((1, 3)))
    assert np.isnan([point.step_mean, point.turning_angle, point.curvature, point.effective_dim]).all()
    still = kinematics(np.array([[0.0], [1.0], [1.0], [2.0]]))
    assert np.isnan(still.turning_angle)  # every turn touches the step of length 0
    assert still.straightness == 1
