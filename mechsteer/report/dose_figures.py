"""Pictures of dose and response: the effect over coefficients, and the effect against what neutral text loses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from mechsteer.evaluation.dose_results import DosePoint, DoseResponse, MethodDose
from mechsteer.report.escaping import visible
from mechsteer.report.figures import BLUE, GREEN, GREY, INK, ORANGE, WIDTH, Figure, styled
from mechsteer.report.tables import aligned
from mechsteer.results import Interval

LOOKS = [(BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), (INK, "D", ":"), ("#CC79A7", "v", "-")]
LOOKS += [("#E69F00", "P", "--"), ("#56B4E9", "X", "-."), ("#999999", "*", ":")]
LEAST_VALID = 0.8
EFFECT = "effect (nats of log-odds)"


def curves(result: DoseResponse) -> Figure:
    """Every method's effect over the coefficients with its 95 % interval; hollow where too few answers are valid."""
    with styled():
        canvas, axes = _axes(len(result.methods), "coefficient, after calibration of the sign", EFFECT)
        for number, method in enumerate(result.methods):
            _line(axes, number, method.name, [(p.coeff, p.effect, p.valid >= LEAST_VALID) for p in method.points])
        axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        _legend(axes)
    caption = (
        "Score minus the score at c = 0, with 95 % bootstrap intervals over situations. Hollow: fewer than 80 % of the "
        "questions are answered yes or no there."
    )
    alt = "Effect over coefficients. " + "; ".join(_told(method) for method in result.methods) + "."
    return Figure(canvas, f"Dose and response: {result.target}", caption, alt)


def against_loss(result: DoseResponse) -> Figure | None:
    """Every method's effect for c > 0 against ΔNLL on neutral text; None without such text."""
    if not result.n_neutral:
        return None
    with styled():
        canvas, axes = _axes(len(result.methods), "ΔNLL on neutral text (nats per token)", EFFECT)
        for number, method in enumerate(result.methods):
            ahead = [p for p in method.points if p.coeff >= 0 and p.delta_nll is not None]
            _line(axes, number, method.name, [(_loss(p), p.effect, p.valid >= LEAST_VALID) for p in ahead])
        axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        _legend(axes)
    caption = (
        "What an effect costs: each point is a coefficient of 0 or more, with 95 % intervals; further left is cheaper. "
        "Hollow: fewer than 80 % valid answers."
    )
    rows = [
        f"{m.name}: {'; '.join(f'{_loss(p):.3g}, {p.effect.value:.3g}' for p in m.points if p.coeff >= 0)}"
        for m in result.methods
    ]
    return Figure(canvas, "Effect against coherence", caption, f"ΔNLL and effect. {' | '.join(rows)}.")


def _loss(point: DosePoint) -> float:
    return math.nan if point.delta_nll is None else point.delta_nll.value


def _axes(n_methods: int, x_label: str, y_label: str) -> tuple[Canvas, Axes]:
    """Higher for more methods: their names stand above the data."""
    canvas = Canvas(figsize=(WIDTH, 3.0 + 0.1 * n_methods))
    axes = canvas.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return canvas, axes


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handletextpad=0.5)


def _line(axes: Axes, number: int, name: str, points: Sequence[tuple[float, Interval, bool]]) -> None:
    color, marker, line = LOOKS[number % len(LOOKS)]
    x = [at for at, _, _ in points]
    axes.plot(x, [effect.value for _, effect, _ in points], line, color=color, label=visible(name), linewidth=1.3)
    for at, effect, is_valid in points:
        if math.isfinite(effect.value):
            axes.vlines(at, effect.low, effect.high, color=color, linewidth=1)
            face = color if is_valid else "white"
            axes.plot([at], [effect.value], marker, color=color, markerfacecolor=face, markersize=4.5)


def _told(method: MethodDose) -> str:
    values = aligned([point.effect.value for point in method.points])
    told = (f"{point.coeff:g}: {value}" for point, value in zip(method.points, values, strict=True))
    return f"{method.name}: {', '.join(told)}"
