"""A suite: many models on many tasks, one table, one picture, and what is said of all."""

from __future__ import annotations

import math

from mechsteer.evaluation.suite import SuiteCell, SuiteResult
from mechsteer.report.blocks import Block, Note, Text
from mechsteer.report.forest import Arm, Forest
from mechsteer.report.report import Section
from mechsteer.report.sections.units import Unit, unit_of
from mechsteer.report.sections.words import Cells, p_value
from mechsteer.report.tables import Table, decimal

QUESTION = "Does the adapter change the score, over these models and tasks?"
POOLED = "pooled"


def suite(result: SuiteResult) -> list[Section]:
    """What is said of all cells, the picture of all, and the table of all, those that cannot run with the reason."""
    unit = unit_of("accuracy")
    blocks: list[Block] = [Text(statement(result, unit))]
    if result.done:
        blocks.append(forest(result, unit))
    table = Table([_row(cell, unit) for cell in result.cells], caption=CAPTION)
    missing = [cell for cell in result.cells if cell.status != "done"]
    reasons: list[Block] = [Note(f"{len(missing)} of {len(result.cells)} cells cannot run.")] if missing else []
    if missing:
        rows = [{"model": cell.model, "task": cell.task, "why": cell.why} for cell in missing]
        reasons.append(Table(rows, caption="Cells that cannot run"))
    return [Section("Over all cells", blocks), Section("Cells", [table, *reasons])]


CAPTION = (
    "One row per cell, in per cent and points. Of several adapter seeds the difference is the mean, base and treated are "
    "of the first; p by the cell's own test, and corrected over all cells that ran (Holm)"
)


def statement(result: SuiteResult, unit: Unit) -> str:
    """The pooled estimate in a sentence or three."""
    pooled = result.pooled
    if pooled is None:
        return f"None of {len(result.cells)} cells has run: nothing can be said."
    text = (
        f"The mean over cells of treated − base is {unit.changed(pooled.mean)} (95 %, p = {p_value(pooled.p_value)}), over {pooled.n_cells} of "
        f"{len(result.cells)} cells (models: {pooled.n_models}, tasks: {pooled.n_tasks}, problems: {pooled.n_items}). "
        f"{pooled.n_above} cells lie above 0 and {pooled.n_below} below it (95 % intervals)"
    )
    few = sum(cell.n_seeds < 5 for cell in result.done)
    if not math.isnan(pooled.between_cells):
        text += (
            f"; the standard deviation between cells is {decimal(unit.factor * pooled.between_cells, unit.decimals)}"
        )
    text += ". It holds for these models and tasks, on new problems and new trainings."
    if few:
        text += (
            f" {few} cells have fewer than 5 adapter seeds: how their results vary with the training is hardly known."
        )
    return text


def forest(result: SuiteResult, unit: Unit) -> Forest:
    """Every cell that ran, and the pooled estimate."""
    rows = []
    for cell in result.done:
        assert cell.difference is not None, "a cell that ran has a difference"
        value, low, high = unit.scaled(cell.difference)
        note = f"{unit.score(cell.base)} to {unit.score(cell.treated)}; {cell.verdict}"
        rows.append(Arm(f"{cell.model} on {cell.task}", value, (low, high), note))
    if result.pooled is not None:
        value, low, high = unit.scaled(result.pooled.mean)
        rows.append(Arm(POOLED, value, (low, high), f"mean over {result.pooled.n_cells} cells"))
    return Forest(rows, f"treated − base, {unit.difference}", "All cells that ran", 0.0, POOLED)


def _row(cell: SuiteCell, unit: Unit) -> Cells:
    row: Cells = {"model": cell.model, "task": cell.task, "status": cell.status, "items": cell.n_items}
    row |= {"seeds": cell.n_seeds, "base (%)": unit.factor * cell.base, "treated (%)": unit.factor * cell.treated}
    return row | {
        "points [95 %]": unit.change(cell.difference),
        "p": p_value(cell.p_value),
        "p (Holm)": p_value(cell.p_holm),
        "verdict": cell.verdict,
    }
