"""Topology of the trajectories of right and wrong texts, beside length."""

from __future__ import annotations

import numpy as np

from mechsteer.evaluation.trajectories import TrajectoryEffect, TrajectoryTopology
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Note, Text
from mechsteer.report.report import Section
from mechsteer.report.sections.words import interval
from mechsteer.report.tables import Table, decimal

TITLE = "Topology of trajectories"


def trajectories(result: TrajectoryTopology | None, *, dropped: str = "") -> list[Section]:
    """Raw and matched topology beside length. Without a result the section says why, `dropped`."""
    if result is None:
        return [Section(TITLE, [Note(f"No topology: {dropped}.")])]
    blocks: list[Block] = [
        Text(
            f"{len(result.lengths)} trajectories at {result.site}, resampled to {result.n_points} points ({result.n_too_short} were shorter and are left out). "
            f"Rank correlation of H0 entropy with length: {decimal(result.raw_rank_correlation)} raw, {decimal(result.matched_rank_correlation)} at matched length."
        ),
    ]
    if None not in result.correct:
        blocks.append(
            figures.length_scatter(
                result.lengths,
                result.raw_entropy_nats,
                np.array(result.correct, dtype=bool),
                matched_length=result.n_points,
                title="Raw H0 entropy follows length",
                caption="Each dot is one trace. This is why entropies are compared at matched length only.",
            )
        )
    if result.effects:
        caption = "Log-odds of a right answer per standard deviation (logistic regression, intervals resample problems)"
        blocks.append(Table([_row(effect) for effect in result.effects], caption=caption))
    else:
        blocks.append(Note(f"No claim about right answers: {result.no_effects}."))
    return [Section(TITLE, blocks)]


def _row(effect: TrajectoryEffect) -> dict[str, str]:
    beside = "" if effect.dropped or effect.beside_length is None else interval(effect.beside_length)
    return {
        "feature": effect.name,
        "alone [95 %]": effect.dropped or interval(effect.alone),
        "beside length and token limit [95 %]": beside,
    }
