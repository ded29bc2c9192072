"""Figures as inline SVG: small, deterministic, labelled.

matplotlib's object interface only (no pyplot, so no global state), its default style plus ours whatever the
reader's matplotlibrc says, a fixed hash salt and no dates: the same data give the same bytes. Text stays text
(it can be read aloud, searched, and takes the page's font), and no string is read as mathematics.
"""

from __future__ import annotations

import functools
import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from mechsteer.errors import DataError, ShapeError
from mechsteer.report.blocks import Page
from mechsteer.report.escaping import escape_markdown, visible
from mechsteer.report.forest import AnyArm, Arm
from mechsteer.report.tables import aligned, number
from mechsteer.report.templates import render
from mechsteer.results import Shown

# Okabe and Ito's palette; every pair of series also differs in marker or line.
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8a929b", "#1b1f24"
NORMAL_95 = 1.96  # standard errors on either side of a mean
_NO_ERRORS: Mapping[str, ArrayLike] = {}
WIDTH = 4.8  # inches: narrow, so that type stays readable on a telephone
STYLE = {
    "svg.hashsalt": "mechsteer",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
}


def styled() -> AbstractContextManager[None]:
    """The style of all figures, whatever the reader's matplotlibrc says."""
    return matplotlib.style.context(["default", STYLE])


def _render(canvas: Canvas, form: str = "svg") -> bytes:
    buffer = io.BytesIO()
    with styled(), warnings.catch_warnings():
        # The reader's browser draws the text: a glyph that matplotlib's own font lacks is not missing there.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        undated = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None}}
        canvas.savefig(buffer, format=form, metadata=undated.get(form), transparent=form == "svg", dpi=200)
    return buffer.getvalue()


def _for_page(drawing: bytes, prefix: str, alt: str) -> str:
    """An SVG file as an element for HTML: ids begin with `prefix`, no namespaces, no fixed size."""
    root = ET.fromstring(drawing)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = [(key.rpartition("}")[2], value) for key, value in element.attrib.items()]
        element.attrib = {key: _own(key, value, prefix) for key, value in attributes}
    view = root.attrib["viewBox"]
    root.attrib = {"class": "plot", "viewBox": view, "role": "img", "aria-label": visible(alt)}
    return ET.tostring(root, encoding="unicode")


def _own(key: str, value: str, prefix: str) -> str:
    """Ids are one name space per page: give those of this figure their own."""
    if key == "id":
        return f"{prefix}-{value}"
    if key.endswith("href") and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", value)


@dataclass(frozen=True)
class Figure(Shown):
    """A matplotlib figure in a report. Title, caption, alt text and a label on every x axis are required.

    Raises DataError when one of them is missing: a figure must say what it is.
    """

    canvas: Canvas
    title: str
    caption: str
    alt: str

    def __post_init__(self) -> None:
        missing = [name for name in ("title", "caption", "alt") if not getattr(self, name).strip()]
        missing += ["x label" for axes in self.canvas.axes if axes.axison and not axes.get_xlabel()]
        if missing:
            raise DataError(f"a figure has no {', no '.join(missing)}", "say what is shown, in what unit")

    @functools.cached_property
    def _drawing(self) -> bytes:
        """Drawn once: matplotlib's layout starts from where the last drawing left it, a second one differs."""
        return _render(self.canvas)

    def picture(self, form: str) -> bytes:
        """The drawing alone as a file: "svg", "png" or "pdf"."""
        return self._drawing if form == "svg" else _render(self.canvas, form)

    def html(self, page: Page, /) -> str:
        """Title, drawing, caption."""
        name = page.new_id("figure")
        drawing = _for_page(self._drawing, name, self.alt)
        return render("figure.html", id=name, title=self.title, drawing=Markup(drawing), caption=self.caption)

    def markdown(self) -> str:
        """Title, caption and the description: the drawing itself is in the HTML report."""
        parts = (escape_markdown(self.title), escape_markdown(self.caption), escape_markdown(self.alt))
        return "**Figure: {}.** {}\n\n*Shown: {}*".format(*parts)


def _axes(height: float, x_label: str, y_label: str = "") -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(WIDTH, height))
    axes = canvas.add_subplot()
    axes.set_xlabel(visible(x_label))
    axes.set_ylabel(visible(y_label))
    return canvas, axes


def _legend(axes: Axes, columns: int = 2) -> None:
    """Above the data, where it can hide none."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, handletextpad=0.5)


def _dashed(axes: Axes, x: float, label: str | None = None) -> None:
    axes.axvline(x, color=INK, linestyle=(0, (3, 3)), linewidth=1, label=label)


def _vector(name: str, values: ArrayLike, length: int | None = None) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or (length is not None and len(array) != length):
        raise ShapeError(f"{name} has shape {array.shape}", f"give [{'n' if length is None else length}]")
    return array


def _arm_text(arms: Sequence[Arm]) -> str:
    texts = aligned([x for arm in arms for x in (arm.value, *arm.interval)])
    rows = zip(arms, texts[::3], texts[1::3], texts[2::3], strict=True)
    return "; ".join(f"{arm.name} {value} [{low}, {high}]" for arm, value, low, high in rows)


def _wrapped(name: str, width: int = 24) -> str:
    name = visible(name)
    return name if len(name) <= width else name[: width - 1] + "…"


def _arm_axes(arms: Sequence[Arm], unit: str, reference: float | None) -> tuple[Canvas, Axes]:
    canvas, axes = _axes(0.62 + 0.27 * len(arms), unit)
    axes.set_yticks(range(len(arms)), [_wrapped(arm.name) for arm in arms])
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(axis="x", color="#e3e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    if reference is not None and math.isfinite(reference):
        _dashed(axes, reference)
    return canvas, axes


def bars(
    arms: Sequence[AnyArm],
    *,
    unit: str,
    title: str,
    caption: str,
    reference: float | None = None,
    highlight: str = "",
) -> Figure:
    """A horizontal bar with an interval for each arm, for example the AUROC of a probe beside its baselines.

    Bars begin at `reference` (0.5 for an AUROC: length is distance from chance), or at 0 without one.
    """
    rows = [Arm(*arm) for arm in arms]
    base = 0.0 if reference is None else reference
    with styled():
        canvas, axes = _arm_axes(rows, unit, base)
        for i, arm in enumerate(rows):
            color = BLUE if arm.name == highlight else "#b6bec7"
            axes.barh(i, arm.value - base, left=base, height=0.62, color=color)
            axes.plot(arm.interval, [i, i], color=INK, solid_capstyle="butt", linewidth=1.2)
    return Figure(canvas, title, caption, f"Bars from {number(base)}, {unit}: {_arm_text(rows)}.")


def recovery_curve(
    k: ArrayLike,
    sufficiency: ArrayLike,
    necessity: ArrayLike,
    control_band: tuple[ArrayLike, ArrayLike],
    *,
    title: str,
    caption: str,
    control_label: str = "meaningless bases",
    intervals: Sequence[tuple[ArrayLike, ArrayLike]],
) -> Figure:
    """Share of an effect against the number of directions kept (sufficiency) or removed (necessity).

    All arguments are [n_k]; `control_band` is (low, high) of the same shares in bases that mean nothing; `intervals`
    are (low, high) of sufficiency and of necessity, drawn as lines. Shares that are nan (the total effect is within
    noise) are left out, and the figure says so when all are.
    """
    k = _vector("k", k)
    series = {
        "sufficiency: effect with only the top k": _vector("sufficiency", sufficiency, len(k)),
        "necessity: effect lost without the top k": _vector("necessity", necessity, len(k)),
    }
    low, high = (_vector("control_band", edge, len(k)) for edge in control_band)
    with styled():
        canvas, axes = _axes(2.9, "k, number of directions (logarithmic)", "share of the effect")
        axes.fill_between(k, low, high, color="#d5dae0", label=control_label, linewidth=0)
        for (label, values), color, mark in zip(series.items(), (BLUE, ORANGE), ("o-", "s--"), strict=True):
            axes.plot(k, values, mark, color=color, label=label, markersize=4.5)
        for (bottom, top), color, aside in zip(intervals, (BLUE, ORANGE), (1 / 1.03, 1.03), strict=True):
            low_end, high_end = (_vector("interval", edge, len(k)) for edge in (bottom, top))
            axes.vlines(
                k * aside, low_end, high_end, color=color, linewidth=1.2
            )  # side by side: they would hide each other
        for level in (0, 1):
            axes.axhline(level, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        if len(k):
            axes.set_xlim(k.min() / 1.25, k.max() * 1.25)
        axes.set_xticks(k, [f"{value:g}" for value in k])
        axes.xaxis.set_minor_locator(NullLocator())
        if not any(np.isfinite(values).any() for values in series.values()):
            message = "undefined: the total effect is within noise"
            axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center")
        _legend(axes, columns=1)
    points = "; ".join(f"{name}: {', '.join(aligned(list(values)))}" for name, values in series.items())
    band = ", ".join(f"{a} to {b}" for a, b in zip(aligned(list(low)), aligned(list(high)), strict=True))
    ks = ", ".join(f"{value:g}" for value in k)
    alt = f"Share of the effect at k = {ks}. {points}; {control_label}: {band}."
    return Figure(canvas, title, caption, alt)


def length_scatter(
    lengths: ArrayLike,
    entropy_nats: ArrayLike,
    correct: ArrayLike,
    *,
    title: str,
    caption: str,
    matched_length: float | None = None,
    y_label: str = "H0 entropy (nats)",
) -> Figure:
    """Entropy of each trajectory against its length in tokens, correct and incorrect apart; all [n_traces].

    The dashed line is the matched length: the number of points at which trajectories are compared.
    """
    x = _vector("lengths", lengths)
    y, right = _vector("entropy", entropy_nats, len(x)), _vector("correct", correct, len(x)) > 0
    with styled():
        canvas, axes = _axes(3.0, "length (tokens)", y_label)
        # Thousands of vector marks would make the page heavy: beyond that, a picture inside the SVG.
        style: dict[str, Any] = {"s": 13, "linewidths": 0.9, "rasterized": len(x) > 1500}
        hit, missed = f"correct (n = {right.sum()})", f"incorrect (n = {(~right).sum()})"
        axes.scatter(x[right], y[right], facecolors="none", edgecolors=BLUE, label=hit, **style)
        axes.scatter(x[~right], y[~right], color=ORANGE, marker="x", label=missed, **style)
        if matched_length is not None:
            _dashed(axes, matched_length, "matched length")
        _legend(axes)
    means = [
        f"{name}: n {int(m.sum())}, mean length {_mean(x[m])}, mean {y_label} {_mean(y[m])}"
        for name, m in (("correct", right), ("incorrect", ~right))
    ]
    matched = "" if matched_length is None else f"; matched length {number(matched_length)}"
    alt = f"Scatter of {y_label} against length. {'; '.join(means)}{matched}."
    return Figure(canvas, title, caption, alt)


def _mean(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    return number(float(known.mean()) if len(known) else math.nan)


def training_curve(
    steps: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    title: str,
    caption: str,
    x_label: str = "optimiser step",
    y_label: str = "loss (nats per token)",
    chosen_step: float | None = None,
    errors: Mapping[str, ArrayLike] = _NO_ERRORS,
) -> Figure:
    """Losses against the optimiser step (or epoch), [n_steps] each; dashed line: the one whose weights are used.

    `errors`: standard errors [n_steps] of some of the curves, whose 95 % intervals are bands; nan draws none.
    """
    x = _vector("steps", steps)
    with styled():
        canvas, axes = _axes(2.8, x_label, y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        looks = [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (INK, ":")]
        for i, (name, values) in enumerate(curves.items()):
            color, line = looks[i % len(looks)]
            y = _vector(name, values, len(x))
            axes.plot(x, y, line, color=color, label=visible(name))
            if name in errors:
                half = NORMAL_95 * _vector(f"the error of {name}", errors[name], len(x))
                axes.fill_between(x, y - half, y + half, color=color, alpha=0.18, linewidth=0)
        if chosen_step is not None:
            _dashed(axes, chosen_step, "the one used")
        _legend(axes)
    ends = "; ".join(
        f"{name} from {_point(name, 0, curves, errors)} to {_point(name, -1, curves, errors)}"
        for name in curves
        if len(x)
    )
    return Figure(canvas, title, caption, f"{y_label} over {len(x)} points: {ends}.")


def _point(name: str, i: int, curves: Mapping[str, ArrayLike], errors: Mapping[str, ArrayLike]) -> str:
    """A value of a curve, with its 95 % interval where it has one."""
    value = float(np.asarray(curves[name])[i])
    error = float(np.asarray(errors[name])[i]) if name in errors else math.nan
    if not math.isfinite(value + error):
        return number(value)
    value, low, high = aligned([value, value - NORMAL_95 * error, value + NORMAL_95 * error])
    return f"{value} [{low}, {high}]"


def score_histogram(
    scores: ArrayLike,
    *,
    title: str,
    caption: str,
    cutoff: float | None = None,
    x_label: str = "ReasonScore",
    n_bins: int = 40,
) -> Figure:
    """How many SAE features have which score [d_sae]; dashed line: the lowest score of the features shown.

    Most features score near 0, so counts are on a logarithmic axis; nan scores are counted in the alt text.
    """
    values = _vector("scores", scores)
    known = values[np.isfinite(values)]
    with styled():
        canvas, axes = _axes(2.6, x_label, "features (logarithmic)")
        axes.hist(known, bins=n_bins, color="#9fb4c7", edgecolor="white", linewidth=0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))  # small scores have long labels
        axes.set_yscale("symlog", linthresh=1)
        top = max(1, len(known))
        ticks = [0, *(10**e for e in range(len(str(top))))]
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.yaxis.set_minor_locator(NullLocator())
        if cutoff is not None:
            _dashed(axes, cutoff, f"top {int((known >= cutoff).sum())} features")
            _legend(axes)
    span = f"{number(float(known.min()))} to {number(float(known.max()))}" if len(known) else "no range"
    missing = len(values) - len(known)
    return Figure(canvas, title, caption, f"Histogram of {len(known)} scores, {span}; {missing} undefined.")
