"""Probes over layers and poolings, of several classes, and their calibration."""

from __future__ import annotations

import numpy as np

from mechsteer.probes import CalibrationCurve, ClassesEvaluation, ProbeSweep
from mechsteer.report.blocks import Block, Note, Text
from mechsteer.report.figures import Figure
from mechsteer.report.grids import grid
from mechsteer.report.probe_figures import calibration
from mechsteer.report.report import Section
from mechsteer.report.sections.words import interval, p_value
from mechsteer.report.tables import Table


def sweep(result: ProbeSweep | None, *, dropped: str = "") -> list[Section]:
    """Every layer and pooling, the best beside the best of permuted labels. Without a result it says why, `dropped`."""
    title = "Probes over layers and poolings"
    if result is None:
        return [Section(title, [Note(f"No probes: {dropped}.")])]
    rows = [
        {
            "site": cell.site,
            "pooling": cell.pooling,
            "within problems": interval(cell.scores.within_group_auroc),
            "all traces": interval(cell.scores.auroc),
        }
        for cell in result.cells
    ]
    if result.text is not None:
        text = result.text
        rows.append(
            {
                "site": "the text alone",
                "pooling": "",
                "within problems": interval(text.within_group_auroc),
                "all traces": interval(text.auroc),
            }
        )
    caption = "AUROC on later problems [95 %]"
    return [Section(title, [Text(in_words(result)), picture(result), Table(rows, caption=caption)])]


def in_words(result: ProbeSweep) -> str:
    """The best cell, and that it was chosen."""
    best = result.best
    told = (
        f"{result.n_samples} texts of {result.n_groups} problems. The best of {len(result.cells)} cells is {best.pooling} at "
        f"{best.site}: AUROC within problems {interval(best.scores.within_group_auroc)}. It was chosen; the best cell of labels "
        f"permuted within problems has {interval(result.null)} (ridge probes, p = {p_value(result.p_best)})."
    )
    if result.text is not None:
        told += f" The text alone has {interval(result.text.within_group_auroc)}."
    return told


def picture(result: ProbeSweep) -> Figure:
    """AUROC within problems minus 0.5, a row per site, a column per pooling; the best is framed."""
    values, low, high = (np.full((len(result.sites), len(result.poolings)), np.nan) for _ in range(3))
    for cell in result.cells:
        at = result.sites.index(cell.site), result.poolings.index(cell.pooling)
        score = cell.scores.within_group_auroc
        values[at], low[at], high[at] = score.value - 0.5, score.low - 0.5, score.high - 0.5
    best = result.best
    return grid(
        values,
        rows=list(result.sites),
        columns=list(result.poolings),
        x_label="pooling over the tokens of a text",
        title="AUROC within problems, minus 0.5",
        caption="Each cell: a probe of its own with its 95 % interval, all tested on the same later problems; framed: the best, which was chosen.",
        low=low,
        high=high,
        marked=(result.sites.index(best.site), result.poolings.index(best.pooling)),
    )


def classes(result: ClassesEvaluation | None, *, what: str = "", dropped: str = "") -> list[Section]:
    """One class against the rest, each beside the text; `what` the classes are, in words."""
    title = what or "Which reasoning step is under way"
    if result is None:
        return [Section(title, [Note(f"No probe of several classes: {dropped}.")])]
    told = (
        f"{result.n_samples} states of {result.n_groups} problems in {len(result.classes)} classes, tested on later problems. The probe "
        f"names {interval(result.accuracy)} rightly; the commonest class alone {result.commonest:.3f}"
    )
    if result.text_accuracy is not None:
        told += f", the text alone {interval(result.text_accuracy)}: a difference of {interval(result.gain)}"
    rows = [
        {
            "class": each.name,
            "states": each.n,
            "probe, all": interval(each.probe.auroc),
            "probe, within problems": interval(each.probe.within_group_auroc),
            "text, within problems": "" if each.text is None else interval(each.text.within_group_auroc),
        }
        for each in result.classes
    ]
    names = [each.name for each in result.classes]
    confusion = [
        {"class": name, **{f"named {other}": int(n) for other, n in zip(names, row, strict=True)}}
        for name, row in zip(names, result.confusion.tolist(), strict=True)
    ]
    blocks: list[Block] = [
        Text(f"{told}."),
        Table(rows, caption="AUROC of each class against the rest [95 %]"),
        Table(confusion, caption="Tested states by their class and the class named"),
    ]
    return [Section(title, blocks)]


def curve(result: CalibrationCurve) -> list[Section]:
    """Whether a probe's probabilities are right."""
    return [Section("Calibration", [calibration(result)])]
