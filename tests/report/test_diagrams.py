"""Persistence diagrams are drawn by persim: a point per bar, where it is born and where it dies."""

from __future__ import annotations

import re

import matplotlib as mpl
import numpy as np
import pytest

import mechsteer as ms
from mechsteer.report import persistence_diagram
from mechsteer.report.blocks import Page
from mechsteer.report.sections.trajectories import trajectories


def circle(n: int = 10, radius: float = 1.0) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return radius * np.c_[np.cos(angle), np.sin(angle)]


def test_every_bar_is_a_point_at_its_birth_and_death():
    summary = ms.topology.summarize(circle())
    figure = persistence_diagram(summary)
    (axes,) = figure.canvas.axes
    points = [np.asarray(drawn.get_offsets()) for drawn in axes.collections]
    assert [len(p) for p in points] == [len(summary.h0.bars), 1]
    np.testing.assert_allclose(points[0], summary.h0.bars, atol=1e-6)
    np.testing.assert_allclose(points[1], summary.h1.bars, atol=1e-6)
    (diagonal,) = axes.lines
    np.testing.assert_allclose(diagonal.get_xdata(), diagonal.get_ydata())
    assert figure.alt.startswith("Persistence diagram. H0, components: 9 bars, the longest 0.618, H1, loops: 1 bars")


def test_several_trajectories_share_their_axes_and_the_readers_style_stays():
    before = dict(mpl.rcParams)
    several = {"small": ms.topology.summarize(circle()), "large": ms.topology.summarize(circle(radius=3.0))}
    figure = persistence_diagram(several)
    assert dict(mpl.rcParams) == before
    one, two = figure.canvas.axes
    assert (one.get_xlim(), one.get_ylim()) == (two.get_xlim(), two.get_ylim())
    assert (one.get_title(), two.get_title()) == ("small", "large")
    assert figure.html(Page()) == persistence_diagram(several).html(Page())


def test_no_bars_and_one_dimension():
    assert "0 bars" in persistence_diagram(ms.topology.summarize(np.zeros((3, 2)))).alt
    assert "H1" not in persistence_diagram(ms.topology.summarize(circle(), dims=(0,))).alt


@pytest.mark.parametrize(("form", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_are_files(tmp_path, form, start):
    path = persistence_diagram(ms.topology.summarize(circle())).save(tmp_path / f"diagram.{form}")
    assert path.read_bytes().startswith(start)


def test_a_trajectorys_section_and_a_study_show_them():
    assert "Persistence diagram. H0, components: 9 bars" in ms.topology.summarize(circle())._repr_html_()
    generator = np.random.default_rng(0)
    from mechsteer.evaluation.trajectories import trajectory_topology
    from mechsteer.studies.measure import typical

    clouds = [generator.normal(size=(12 + i % 4, 3)).cumsum(0) for i in range(16)]
    right = [i % 2 == 0 for i in range(16)]
    result = trajectory_topology(clouds, right, [str(i // 2) for i in range(16)], site="s", n_points=10)
    examples = typical(result, clouds)
    assert list(examples) == ["a right trace", "a wrong trace"]
    middle = sorted(e for e, r in zip(result.matched_entropy_nats, right, strict=True) if r)[4]
    assert examples["a right trace"].h0.entropy_nats == pytest.approx(middle)
    (section,) = trajectories(result, examples=examples)
    text = section.markdown().replace("\\", "")
    assert re.search(r"a right trace: H0, components: 9 bars.*a wrong trace: H0, components: 9 bars", text)
    assert "persistence diagrams" in text
