"""A direction over layers and strengths, its best cell beside the best cells of random directions."""

from __future__ import annotations

import math

from mechsteer.evaluation import StrengthSweep, SweepCell
from mechsteer.evaluation.verdicts import N_RANDOM
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.figures import Figure
from mechsteer.report.grids import grid
from mechsteer.report.report import Section
from mechsteer.report.sections.units import Unit, unit_of
from mechsteer.report.sections.words import p_value
from mechsteer.report.tables import Table

TITLE = "Layers and strengths"


def sweep(result: StrengthSweep) -> list[Section]:
    """The best cell in words, all cells as a picture, the same of every random direction."""
    unit = unit_of(result.metric, result.unit)
    blocks: list[Block] = [Text(in_words(result, unit)), picture(result, unit)]
    edge = max(result.coeffs, key=abs)
    if len(result.coeffs) > 1 and result.best.coeff == edge:
        blocks.append(
            Note(f"The best cell has the strongest coefficient tried, {edge:g}: it may lie beyond the grid.", "warning")
        )
    rows = [_row("own", result.best, unit)]
    rows += [_row(f"random {i}", cell, unit) for i, cell in enumerate(result.best_of_random, start=1)]
    blocks.append(Table(rows, caption="The best cell of each direction, chosen in the same way", highlight=0))
    if result.random:
        pictures = [picture(result, unit, random=i) for i in range(len(result.random))]
        blocks.append(Details("The same sweep of random directions", pictures))
    return [Section(TITLE, blocks)]


def in_words(result: StrengthSweep, unit: Unit) -> str:
    """The best cell, that it was chosen, and what it is to be held against."""
    best = result.best
    told = (
        f"{result.n_items} items, base {unit.score(result.base_score)}. The best of {len(result.cells)} cells is "
        f"{best.site} with coefficient {best.coeff:g}: {unit.score(best.score)}, {unit.changed(best.difference)} against "
        f"base. It was chosen among {len(result.cells)}: its interval does not know of that, and the best of so many "
        f"tends to be above base by chance. "
    )
    n = len(result.random)
    if not n:
        return f"{told}No random direction was tried: nothing says how much of it any direction would give."
    rivals = result.best_of_random
    reached = sum(cell.score >= best.score for cell in rivals)
    highest = max(rivals, key=lambda cell: cell.score)
    told += (
        f"Hold it against the best cells of {n} random direction{'s' if n > 1 else ''} of the same norm, swept in the "
        f"same way: {reached} of {n} reach it (p = {p_value(result.p_best)}), the highest has {unit.score(highest.score)} "
        f"({unit.changed(highest.difference)})."
    )
    if n < N_RANDOM:
        told += f" With {n} p cannot be below {1 / (1 + n):.2f}: {N_RANDOM} are needed for 0.05."
    return told


def picture(result: StrengthSweep, unit: Unit | None = None, *, random: int | None = None) -> Figure:
    """Differences from base as a picture, the best cell framed; of the direction, or of one of the `random` ones."""
    unit = unit or unit_of(result.metric, result.unit)
    values, low, high = (unit.factor * result.grid(what, random=random) for what in ("difference", "low", "high"))
    best = result.best if random is None else result.best_of_random[random]
    own = random is None
    return grid(
        values.to_numpy(),
        rows=list(result.sites),
        columns=[f"{coeff:g}" for coeff in result.coeffs],
        x_label="coefficient",
        title=f"{'The direction' if own else f'Random direction {1 + (random or 0)}'}: difference from base in {unit.difference}",
        caption=f"Each cell: {unit.name} minus base's with its 95 % interval; framed: the best cell, which was chosen.",
        low=low.to_numpy(),
        high=high.to_numpy(),
        marked=(result.sites.index(best.site), result.coeffs.index(best.coeff)),
        unit=unit.difference,
    )


def _row(name: str, cell: SweepCell, unit: Unit) -> dict[str, object]:
    return {
        "direction": name,
        "site": cell.site,
        "coefficient": f"{cell.coeff:g}",
        f"score{unit.mark and ' (%)'}": unit.factor * cell.score,
        f"{unit.difference} [95 %]": unit.change(cell.difference),
        "p of this cell": "undefined" if math.isnan(cell.p_value) else p_value(cell.p_value),
    }
