"""Pictures of two kinds of trajectories: curves with their null, persistence images, how early the shape tells."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from mechsteer.evaluation.early import EarlyDetection
from mechsteer.evaluation.shape_curves import CurvePair, ImagePair
from mechsteer.report.escaping import visible
from mechsteer.report.figures import BLUE, GREY, INK, ORANGE, WIDTH, Figure, styled
from mechsteer.report.grids import COLOURS
from mechsteer.report.sections.words import interval, p_value
from mechsteer.report.tables import number


def curve_pair(pair: CurvePair, kinds: tuple[str, str], *, caption: str = "") -> Figure:
    """Both means above; below their difference, and the central 95 % of it with kinds permuted within problems."""
    with styled():
        canvas = Canvas(figsize=(WIDTH, 3.6))
        above, below = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        above.plot(pair.radii, pair.first, "-", color=BLUE, label=visible(kinds[0]))
        above.plot(pair.radii, pair.second, "--", color=ORANGE, label=visible(kinds[1]))
        above.set_ylabel(pair.name.split(" of ")[0])
        above.set_xlabel(" ")
        above.legend(loc="upper right")
        below.fill_between(pair.radii, pair.null_low, pair.null_high, color="#d5dae0", linewidth=0, label="permuted")
        below.plot(pair.radii, pair.first - pair.second, "-", color=INK)
        below.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
        below.set_ylabel("difference")
        below.set_xlabel("distance between points")
    outside = (pair.first - pair.second < pair.null_low) | (pair.first - pair.second > pair.null_high)
    told = f"largest difference {number(float(np.abs(pair.first - pair.second).max()))}, p = {p_value(pair.p_value)}"
    alt = f"{pair.name}, {kinds[0]} and {kinds[1]}: {told}; outside the null's band at {int(outside.sum())} of {len(outside)} distances."
    default = (
        f"Means over trajectories. Below: {kinds[0]} minus {kinds[1]}; grey: the central 95 % with kinds permuted within "
        f"problems. Largest difference anywhere: p = {p_value(pair.p_value)}."
    )
    return Figure(canvas, f"{pair.name}, {matched_words(pair.matching)}", caption or default, alt)


def image_pair(pair: ImagePair, kinds: tuple[str, str]) -> Figure:
    """Mean persistence images of loops, of either kind and their difference, on one grid."""
    difference = pair.first - pair.second
    most = float(max(np.abs(pair.first).max(initial=0.0), np.abs(pair.second).max(initial=0.0))) or 1.0
    apart = float(np.abs(difference).max(initial=0.0))
    extent = (*pair.births, *pair.persistences)
    shown = [(kinds[0], pair.first, most), (kinds[1], pair.second, most), ("difference", difference, apart or 1.0)]
    with styled():
        canvas = Canvas(figsize=(6.9, 2.6))
        for axes, (name, image, limit) in zip(canvas.subplots(1, 3), shown, strict=True):
            axes.imshow(image.T, origin="lower", extent=extent, cmap=COLOURS, vmin=-limit, vmax=limit, aspect="auto")
            axes.set_title(visible(name), fontsize=9)
            axes.set_xlabel("birth")
            axes.set_ylabel("lifetime" if name == kinds[0] else "")
    caption = (
        f"Persistence images of loops (H1), {matched_words(pair.matching)}: each loop a Gaussian at its birth and lifetime, as "
        f"heavy as it lives long. Full colour: {number(most)}, in the difference {number(apart)}."
    )
    alt = f"Mean persistence images of {kinds[0]} and {kinds[1]}; largest value {number(most)}, largest difference {number(apart)}."
    return Figure(canvas, "Persistence images", caption, alt)


def early(result: EarlyDetection) -> Figure:
    """AUROC within problems by the share of the trace seen: the shape, and length alone."""
    shares = 100 * np.array([each.share for each in result.shares])
    lines = {
        "shape of the trajectory": ([each.shape_within for each in result.shares], BLUE, "o-", -0.6),
        "length alone": ([each.length_within for each in result.shares], ORANGE, "s--", 0.6),
    }
    with styled():
        canvas = Canvas(figsize=(WIDTH, 2.9))
        axes = canvas.add_subplot()
        axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
        for name, (values, color, mark, aside) in lines.items():
            axes.plot(shares + aside, [v.value for v in values], mark, color=color, label=name, markersize=4.5)
            axes.vlines(shares + aside, [v.low for v in values], [v.high for v in values], color=color, linewidth=1.2)
        axes.set_xticks(shares)
        axes.set_xlabel("share of the trace seen (%)")
        axes.set_ylabel("AUROC within problems")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    told = "; ".join(
        f"after {each.share:.0%}: shape {interval(each.shape_within)}, length {interval(each.length_within)}"
        for each in result.shares
    )
    caption = (
        "Linear probes on windows' topology and kinematics, tested on later problems, 95 % intervals. 0.5 is chance. A "
        "share of a trace is known only at its end: what length alone says stands beside it."
    )
    return Figure(canvas, "How early the shape tells", caption, f"AUROC within problems. {told}.")


def matched_words(matching: str) -> str:
    """How trajectories were cut to one length, in words."""
    return "points spread over the trace" if matching == "spread" else "neighbouring tokens"
