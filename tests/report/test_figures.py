"""Figures: labelled, deterministic, self-contained; positions in the drawing are those of the data."""

import math
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from mechsteer.errors import DataError, ShapeError
from mechsteer.report import figures
from mechsteer.report.blocks import Page
from mechsteer.report.figures import Figure

WORDS = {"title": "A title", "caption": "A caption."}
ARMS = [
    ("base", 0.6, (0.5, 0.7), ""),
    ("$x_1$ <b>", 0.65, (0.6, 0.7), ""),
    ("none", math.nan, (math.nan, math.nan), ""),
]


def every_figure() -> list[Figure]:
    rng = np.random.default_rng(0)
    nans = [math.nan] * 3
    return [
        figures.bars(ARMS, unit="accuracy", reference=0.6, highlight="base", **WORDS),
        figures.bars(ARMS, unit="AUROC", reference=0.5, **WORDS),
        figures.recovery_curve(
            [1, 4, 16],
            [0.1, 0.5, 0.9],
            nans,
            ([0, 0, 0], [0.1, 0.2, 0.3]),
            intervals=[([0.0, 0.4, 0.8], [0.2, 0.6, 1.0]), (nans, nans)],
            **WORDS,
        ),
        figures.recovery_curve([1, 4, 16], nans, nans, (nans, nans), intervals=[(nans, nans)] * 2, **WORDS),
        figures.length_scatter(rng.random(9), rng.random(9), [1, 0, 1] * 3, matched_length=0.5, **WORDS),
        figures.training_curve([0, 1, 2], {"a": [3, 2, 1], "b": [1, 1, math.nan]}, chosen_step=1, **WORDS),
        figures.training_curve([0, 1, 2], {"a": [3, 2, 1]}, errors={"a": [0.5, math.nan, 0.1]}, **WORDS),
        figures.score_histogram([0, 0.1, 0.5, math.nan], cutoff=0.1, **WORDS),
        figures.score_histogram([], **WORDS),
        figures.training_curve([], {"a": []}, **WORDS),
    ]


def test_same_data_same_bytes_whatever_the_users_style():
    first = [figure.html(Page()) for figure in every_figure()]
    again = every_figure()
    with matplotlib.rc_context({"font.size": 30, "axes.linewidth": 9, "svg.hashsalt": None}):
        assert [figure.html(Page()) for figure in again] == first
        assert [figure.html(Page()) for figure in every_figure()] == first
    assert [figure.html(Page()) for figure in again] == first  # a second writing draws nothing anew


def test_several_figures_share_a_page():
    page = Page()
    text = "".join(figure.html(page) for figure in every_figure())
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    targets = {a or b for a, b in re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", text)}
    assert targets
    assert targets <= set(ids)
    assert "http" not in text
    assert "<metadata" not in text
    assert "<style" not in text


def test_labels_are_text_not_mathematics_or_markup():
    drawing = figures.bars(ARMS, unit="accuracy", **WORDS).html(Page())
    assert "$x_1$ &lt;b&gt;</text>" in drawing
    assert ">accuracy</text>" in drawing
    assert 'role="img" aria-label="Bars from 0, accuracy: base 0.600 [0.500, 0.700];' in drawing
    assert "none undefined [undefined, undefined]" in drawing


def test_labels_with_characters_that_xml_or_the_font_lack():
    arms = [("漢\x00\ufffe\u200b", 1.0, (0.5, 2.0), "")]
    assert "漢␀⟨U+FFFE⟩⟨U+200B⟩" in figures.bars(arms, unit="x", **WORDS).html(Page())


def test_bars_end_at_the_values():
    figure = figures.bars(ARMS[:2], unit="accuracy", reference=0.5, **WORDS)
    (axes,) = figure.canvas.axes
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert ends == [pytest.approx((0.5, 0.6)), pytest.approx((0.5, 0.65))]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first arm is on top


def test_a_curve_with_errors_has_a_band():
    curves = {"a": [3.0, 2.0], "b": [1.0, 1.0]}
    figure = figures.training_curve([0, 1], curves, errors={"a": [0.5, 0.25]}, **WORDS)
    (band,) = figure.canvas.axes[0].collections
    corners = {tuple(point) for point in np.round(band.get_paths()[0].vertices, 6)}
    assert {(0, 2.02), (0, 3.98), (1, 1.51), (1, 2.49)} <= corners
    assert "a from 3.00 [2.02, 3.98] to 2.00 [1.51, 2.49]; b from 1.00 to 1.00" in figure.alt


def test_nothing_to_attribute_is_said():
    nans = [math.nan] * 2
    figure = figures.recovery_curve([1, 2], nans, nans, (nans, nans), intervals=[(nans, nans)] * 2, **WORDS)
    assert "undefined: the total effect is within noise" in figure.html(Page())
    assert "undefined" in figure.alt


def test_many_points_become_a_picture_inside_the_page():
    x = np.linspace(0, 1, 2000)
    drawing = figures.length_scatter(x, x, x > 0.5, **WORDS).html(Page())
    assert drawing.count("<image") == 1
    assert set(re.findall(r'href="([^#"]{10})', drawing)) == {"data:image"}
    assert len(drawing) < 300_000


def test_counts_in_the_alt_text():
    assert "3 scores, 0 to 0.500; 1 undefined" in figures.score_histogram([0, 0.1, 0.5, math.nan], **WORDS).alt
    assert "correct: n 1, mean length 3.00" in figures.length_scatter([3, 5], [1, 2], [1, 0], **WORDS).alt


def test_a_figure_must_say_what_it_is():
    canvas = Canvas()
    axes = canvas.add_subplot()
    with pytest.raises(DataError, match="no caption, no x label"):
        Figure(canvas, "title", " ", "alt")
    axes.set_xlabel("x")
    assert Figure(canvas, "title", "caption", "alt").markdown().startswith("**Figure: title.** caption")


def test_wrong_shapes():
    with pytest.raises(ShapeError, match="necessity has shape \\(1,\\)"):
        figures.recovery_curve([1, 2], [1, 2], [1], ([0, 0], [0, 0]), intervals=[([0, 0], [1, 1])] * 2, **WORDS)
