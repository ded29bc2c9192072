"""Topology of pairs of texts: what is compared is at matched length, and raw values stand beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mechsteer.errors import DataError
from mechsteer.evaluation.before_after import topology_before_after
from mechsteer.report.blocks import Page
from mechsteer.report.sections.gates import change, gates
from mechsteer.report.token_traces import token_trace
from mechsteer.topology import resample, summarize


def walks(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 6, generator=generator) for n in lengths]


def test_each_pair_is_compared_at_one_length():
    before, after = walks([30, 40, 25, 9, 33]), walks([20, 22, 18, 30, 19], seed=1)
    result = topology_before_after(before, after, site="resid_post@1", n_points=12)
    assert (result.n_pairs, result.too_short) == (4, 1)
    entropy = result.of("H0 entropy (nats)")
    kept = [0, 1, 2, 4]
    expected = [[summarize(resample(x[i], 12), dims=(0,)).h0.entropy_nats for i in kept] for x in (before, after)]
    np.testing.assert_allclose([entropy.before, entropy.after], expected)
    assert entropy.comparison.difference.value == pytest.approx(np.mean(expected[1]) - np.mean(expected[0]))
    assert result.of("length (tokens)", matched=False).after.tolist() == [20, 22, 18, 19]


def test_it_shows_itself_with_what_was_matched():
    result = topology_before_after(walks([15] * 4), walks([14] * 4, seed=1), site="<i>x</i>", n_points=12)
    shown = result._repr_html_()
    assert "Topology before and after" in shown
    assert "both resampled to 12 tokens" in shown
    assert "<i>x" not in shown


def test_shorter_texts_lower_raw_entropy_alone():
    """The trap: the same process, cut earlier."""
    before, after = walks([60] * 12), walks([20] * 12, seed=1)
    result = topology_before_after(before, after, site="a site", n_points=20)
    raw = result.of("H0 entropy (nats)", matched=False).comparison.difference
    assert raw.high < -0.8
    matched = result.of("H0 entropy (nats)").comparison.difference
    assert matched.low < 0 < matched.high


def test_too_few_pairs_are_refused():
    with pytest.raises(DataError, match="only 2 of 3 pairs of texts have 10 tokens"):
        topology_before_after(walks([12, 9, 12]), walks([12, 12, 12]), site="a site", n_points=10)
    with pytest.raises(DataError, match="2 trajectories before and 1 after"):
        topology_before_after(walks([12, 12]), walks([12]), site="a site", n_points=10)


def test_the_section_shows_means_and_a_point_per_pair():
    result = topology_before_after(walks([30] * 5), walks([30] * 5, seed=2), site="<site>", n_points=12)
    (section,) = change(result)
    _, table, figure = section.blocks
    assert [row["compared"] for row in table.data] == ["at 12 tokens"] * 3 + ["whole texts"] * 2
    (axes,) = figure.canvas.axes
    points = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(points, np.c_[result.changes[0].before, result.changes[0].after])
    assert "<site>" not in section.html(Page(), "x")


def test_a_gates_section_tells_how_far_it_was_open():
    nan = float("nan")
    values = [torch.tensor([nan, 0.2, 0.6]), torch.tensor([nan, nan, 1.0, 0.2])]
    tokens = [["<b>", "x", "y"], ["a", "b", "c", "d"]]
    (section,) = gates(tokens, values, site="resid_post@0", names=["one", "two"], begins=[1, 2], target=0.15)
    text, trace, _, *heatmaps = section.blocks
    assert "Open by 0.500 in the mean of 4 steered tokens, more than half open at 50.0 % of them" in text.text
    assert "held the mean to 0.150" in text.text
    assert len(heatmaps) == 2
    drawn = [axes.lines[0].get_ydata() for axes in trace.canvas.axes]
    for shown, row in zip(drawn, values, strict=True):
        np.testing.assert_allclose(shown, row.numpy())
    assert "<b>" not in section.html(Page(), "x")
    (empty,) = gates([["a"]], [torch.tensor([nan])], site="resid_post@0")
    assert "touches no token" in empty.blocks[0].text
    with pytest.raises(DataError, match="no texts to draw"):
        token_trace({}, title="t", caption="c", y_label="y")
