"""Topology of the trajectories of right and wrong texts, beside all that length says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mechsteer.evaluation.trajectories import Outcomes, TrajectoryEffect, TrajectoryTopology
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Note, Text
from mechsteer.report.diagrams import persistence_diagram
from mechsteer.report.report import Section
from mechsteer.report.sections.words import interval
from mechsteer.report.tables import Table, decimal
from mechsteer.topology import TopologySummary

TITLE = "Topology of trajectories"


_NONE: Mapping[str, TopologySummary] = {}


def trajectories(
    result: TrajectoryTopology | None, *, dropped: str = "", examples: Mapping[str, TopologySummary] = _NONE
) -> list[Section]:
    """What topology says beyond the text, raw and matched; `examples`: trajectories at matched length, as diagrams.

    Without a result the section says why, `dropped`.
    """
    if result is None:
        return [Section(TITLE, [Note(f"No topology: {dropped}.")])]
    blocks: list[Block] = [Text(claim(result))] if result.effects else []
    blocks.append(
        Text(
            f"{result.used.n} trajectories at {result.site}, compared at {result.n_points} points. {_left_out(result)}"
            f"Rank correlation of H0 entropy with length: {decimal(result.raw_rank_correlation)} raw, "
            f"{decimal(result.matched_rank_correlation)} at matched length (points spread evenly: the longer a trace, the further apart), "
            f"{decimal(result.spaced_rank_correlation)} at matched spacing (mean over windows of neighbouring tokens)."
        )
    )
    if None not in result.correct:
        blocks.append(
            figures.length_scatter(
                result.lengths,
                result.raw_entropy_nats,
                np.array(result.correct, dtype=bool),
                matched_length=result.n_points,
                title="Raw H0 entropy follows length",
                caption="Each dot is one trace. This is why entropies are compared between clouds of one size only.",
            )
        )
    if examples:
        caption = (
            f"At matched length ({result.n_points} points), of each kind the trajectory with the median H0 entropy. Each "
            "point is a bar: components (H0) are born at 0, loops (H1) later; length is the height above the diagonal."
        )
        title = "What the entropies summarise: persistence diagrams"
        blocks.append(persistence_diagram(examples, title=title, caption=caption))
    if not result.effects:
        blocks.append(Note(f"No claim about right answers: {result.no_effects}."))
        return [Section(TITLE, blocks)]
    caption = (
        f"Log-odds of a right answer per standard deviation (logistic regression, intervals over problems). The text is "
        f"{', '.join(result.covariates)}; numbers enter as curves and steps. Within problems only right and wrong traces of one problem are compared"
    )
    blocks.append(Table([_row(effect) for effect in result.effects], caption=caption))
    if result.constant:
        blocks.append(Note(f"The same for all traces, so that nothing stands beside it: {', '.join(result.constant)}."))
    return [Section(TITLE, blocks)]


def claim(result: TrajectoryTopology) -> str:
    """What topology says about right answers beyond the text, all features tested at once."""
    tested = [
        effect for effect in result.effects if effect.within_problems is not None and effect.name != "length alone"
    ]
    found = [f"{effect.name} ({interval(effect.within_problems)})" for effect in tested if effect.beyond]
    beside = f"beside {', '.join(result.covariates)}, within problems"
    if found:
        return f"Beyond the text ({beside}; {len(tested)} features tested at once) right answers go with {' and '.join(found)}, log-odds per standard deviation."
    return f"Topology says no more about right answers than the text does, as far as can be told ({beside}; {len(tested)} features tested at once)."


def _left_out(result: TrajectoryTopology) -> str:
    short, used = result.too_short, result.used
    if not short.n:
        return ""
    text = f"{short.n} were shorter and are left out"
    if short.n_right + short.n_wrong:
        text += f": {decimal(short.share_right)} of them right, against {decimal(used.share_right)} of the others"
    if short.styles:
        text += f" ({_styles(short)}; the others: {_styles(used)})"
    return f"{text}. "


def _styles(outcomes: Outcomes) -> str:
    return ", ".join(f"{n} {style}" for style, n in outcomes.styles.items())


def _row(effect: TrajectoryEffect) -> dict[str, str]:
    return {
        "feature": effect.name,
        "alone [95 %]": effect.dropped or interval(effect.alone),
        "beside the text [95 %]": "" if effect.beside_text is None else interval(effect.beside_text),
        "within problems [95 %]": "" if effect.within_problems is None else interval(effect.within_problems),
    }
