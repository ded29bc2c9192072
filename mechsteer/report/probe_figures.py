"""Pictures of probes: calibration curves."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from mechsteer.probes import CalibrationCurve
from mechsteer.report.figures import BLUE, GREY, WIDTH, Figure, styled
from mechsteer.report.tables import decimal


def calibration(curve: CalibrationCurve) -> Figure:
    """Share of positive rows against the probability given, a point per bin with its interval; below, rows per bin."""
    with styled():
        canvas = Canvas(figsize=(WIDTH, 3.5))
        above, below = canvas.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        above.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        x = [each.confidence for each in curve.bins]
        above.vlines(
            x, [each.frequency.low for each in curve.bins], [each.frequency.high for each in curve.bins], color=BLUE
        )
        above.plot(x, [each.frequency.value for each in curve.bins], "o", color=BLUE, markersize=4.5)
        above.set_ylim(-0.03, 1.03)
        above.set_ylabel("share that is positive")
        above.set_xlabel(" ")
        widths = [0.9 * (each.high - each.low) for each in curve.bins]
        below.bar([(each.low + each.high) / 2 for each in curve.bins], [each.n for each in curve.bins], widths)
        below.set_ylabel("rows")
        below.set_xlabel("probability given by the probe")
    told = "; ".join(f"{decimal(each.confidence)}: {decimal(each.frequency.value)} of {each.n}" for each in curve.bins)
    caption = (
        f"Rows of problems that the probe was not trained on, 95 % intervals over problems; dotted: calibrated. Expected "
        f"calibration error {decimal(curve.ece)}."
    )
    return Figure(canvas, "Are the probabilities right?", caption, f"Calibration of {curve.n} rows. {told}.")
