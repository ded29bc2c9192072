"""Sections of compared shapes and of probes: what is claimed is what was found, with its null and with length beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import mechsteer as ms
from mechsteer.evaluation.early import early_detection
from mechsteer.evaluation.shapes import before_and_after, compare_shapes
from mechsteer.evaluation.trajectory_layers import topology_over_layers
from mechsteer.probes import States, evaluate_classes, evaluate_probe, probe_sweep
from mechsteer.report import shape_figures
from mechsteer.report.sections import probes, shapes
from mechsteer.topology import trajectory_maps


def walks(planted, n_problems=12):
    rng = np.random.default_rng(0)
    first = [True, False] * (2 * n_problems)
    clouds = [
        torch.from_numpy((np.exp(planted * good * rng.standard_normal((n, 1))) * rng.standard_normal((n, 3))).cumsum(0))
        for good in first
        for n in [int(rng.integers(20, 40))]
    ]
    return clouds, first, [str(i // 4) for i in range(4 * n_problems)]


@pytest.fixture(scope="module")
def planted():
    return compare_shapes(*walks(1.2), site="resid_post@1", n_points=12, n_permutations=199)


def text_of(sections):
    return "\n".join(section.markdown() for section in sections).replace("\\", "")


def test_a_difference_is_claimed_with_its_null_and_length(planted):
    text = text_of(shapes.shapes(planted, maps=trajectory_maps({"one": walks(0)[0][0]})))
    assert "differ by more than permuted kinds do" in text
    assert "8 distances tested at once, each at p ≤ 0.00625" in text
    assert "| neighbouring | H0 | wasserstein |" in text
    assert "p of length" in text
    assert "Persistence images" in text
    assert "all joined at" in text


def test_no_difference_is_said_so(planted):
    clouds, first, groups = walks(0)
    assert "No distance between the diagrams" in shapes.claim(compare_shapes(clouds, first, groups, n_points=12))
    same = before_and_after(clouds, clouds, n_points=12, n_permutations=99)
    assert "No distance between the diagrams of before and after" in shapes.claim(same)
    gaps = tuple(replace(gap, by_length=replace(gap.by_kind, gap=10 * gap.by_kind.gap)) for gap in planted.gaps)
    assert "length may be all of it" in shapes.claim(replace(planted, gaps=gaps))
    assert "No comparison: why" in text_of(shapes.shapes(None, dropped="why"))


def test_layers_and_early_shares():
    clouds, first, groups = walks(1.2, n_problems=24)
    over = topology_over_layers({"resid_post@1": clouds, "resid_post@2": clouds}, first, groups, n_points=12)
    text = text_of(shapes.layers(over))
    assert "Beyond the text (beside length, within problems, all features of all layers tested at once): " in text
    assert "| resid_post@2 |" in text
    early = early_detection(clouds, first, groups, window=5, n_boot=100, n_permutations=99)
    text = text_of(shapes.early(early))
    assert "From 25% of the trace on" in text
    assert "length alone" in text
    figure = shape_figures.early(early)
    assert len(figure.canvas.axes[0].get_legend_handles_labels()[1]) == 2
    assert "Not measured: why" in text_of(shapes.early(None, dropped="why"))


def test_probe_sections():
    rng = np.random.default_rng(1)
    y, groups = np.arange(160) % 2, np.arange(160) // 4
    states = [
        States(site=f"s{i}", pooling=how, values=rng.standard_normal((160, 3)) + i * y[:, None])
        for i in range(2)
        for how in ("last", "mean")
    ]
    swept = probe_sweep(states, y, groups, baselines={"length": rng.random(160)}, n_boot=50, n_permutations=19)
    text = text_of(probes.sweep(swept))
    assert "The best of 4 cells is" in text
    assert "It was chosen; the best cell of labels permuted within problems has" in text
    assert "the text alone" in text
    assert "last" in swept._repr_html_()
    named = np.array(["a", "b", "c", "c"])[np.arange(160) % 4]
    tested = evaluate_classes(
        rng.standard_normal((160, 3)), named, groups, baselines={"position": np.arange(160.0) % 4}, n_boot=50
    )
    text = text_of(probes.classes(tested))
    assert "| c | 80 |" in text
    assert "the text alone 1.000" in text
    evaluation = evaluate_probe(states[3].values, y, groups, n_boot=50, n_permutations=9)
    assert (
        "Are the probabilities right?" in ms.report.Report("t", sections=probes.curve(evaluation.calibration)).to_html()
    )
    assert "No probes: why" in text_of(probes.sweep(None, dropped="why"))


@pytest.mark.parametrize(
    "result", ["ShapeComparison", "DiagramGap", "TopologyOverLayers", "EarlyDetection", "ProbeSweep"]
)
def test_a_notebook_knows_their_sections(result):
    assert result in ms._SECTIONS
