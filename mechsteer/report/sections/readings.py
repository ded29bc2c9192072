"""Deltas read in bases: how much each reading explains, and the directions with the most energy."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from mechsteer.attribution import Attribution, EffectAttribution, LogitAttribution
from mechsteer.attribution.facts import DirectionFacts
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.report import Section
from mechsteer.report.sections.directions import known, silent
from mechsteer.report.sections.effect import compared, effect_blocks
from mechsteer.report.sections.logits import logit_blocks
from mechsteer.report.sections.words import Cells, listed
from mechsteer.report.tables import Table, decimal

Facts = Mapping[int, DirectionFacts]
_NONE: Mapping[str, Facts] = {}
SPANS = 1e-4  # of the delta's norm: a residual that is rounding alone
_EXPLAINED = "How much of the delta each reading explains; components + residual = delta in all of them"


def attribution(result: Attribution, *, name: str = "", facts: Facts | None = None) -> list[Section]:
    """One reading as a section of its own. `name`: of the basis."""
    name = name or f"{result.reading} on {result.source.get('kind', 'directions')}"
    blocks = [
        Text(f"The deltas at {result.site}: {result.n_tokens} tokens, expressed as {result.expressed}."),
        Table([shares(name, result)], caption=_EXPLAINED),
        *by_construction({name: result}),
        top_directions(result, facts or {}, 10, caption=f"{name}: the directions with the most energy"),
    ]
    return [Section("What the delta is made of", blocks)]


def made_of(
    *,
    site: str,
    n_prompts: int,
    metric: str,
    readings: Mapping[str, Attribution],
    maps: Mapping[str, Attribution],
    logits: LogitAttribution | None,
    effects: Mapping[str, EffectAttribution],
    facts: Mapping[str, Facts] = _NONE,
    unit: str = "nats",
    title: str = "What the adapter is made of",
) -> list[Section]:
    """Everything on what an intervention is made of, in one section.

    `readings` are shown with their top directions, `maps` (singular directions, one reading each) are folded away;
    keys name them in words. `facts[key][direction]` belongs to the reading, map or effect of that key.
    """
    blocks: list[Block] = [Text(f"The delta at {site}, over {n_prompts} contexts. Metric of the effect: {metric}.")]
    rows = [shares(name, each) for name, each in {**readings, **maps}.items()]
    if rows:
        blocks += [Table(rows, caption=_EXPLAINED), *by_construction({**readings, **maps})]
    for name, each in readings.items():
        caption = f"{name}: the directions with the most energy"
        known_here = facts.get(name, {})
        blocks.append(top_directions(each, known_here, 10, caption=caption))
        shown = each.top(10)
        pairs = zip(shown["label"], shown["direction"], strict=True)
        if said := silent((str(label), known_here.get(direction)) for label, direction in pairs):
            blocks.append(Note(said, kind="warning"))
    if logits is not None:
        blocks += logit_blocks(logits)
    for name, each in effects.items():
        blocks += effect_blocks(each, name=name, metric=metric, unit=unit, facts=facts.get(name, {}))
    blocks += compared(effects, metric)
    if maps:
        tables = [top_directions(each, facts.get(name, {}), 5, caption=name) for name, each in maps.items()]
        blocks.append(Details("Singular directions, map by map", tables))
    return [Section(title, blocks)]


def shares(name: str, result: Attribution) -> Cells:
    """The row of a reading in the table of shares."""
    return {
        "reading": name,
        "explained share": f"{decimal(result.explained)}{' (by construction)' if is_complete(result) else ''}",
        **_null(result),
        "residual norm": result.residual,
        "delta norm": result.norm,
        "expressed": result.expressed,
        "atoms": "all" if result.k is None else str(result.k),
    }


def is_complete(result: Attribution) -> bool:
    """Whether the basis spans the whole space, so that any delta is explained by it: 1.00 says nothing then.

    Told by an orthonormal basis that leaves no residual, of the delta or of any that was turned at random.
    """
    if result.reading != "projection" or not result.residual <= SPANS * result.norm:
        return False
    return result.beside_null is None or result.beside_null.null.low >= 1 - SPANS


def by_construction(readings: Mapping[str, Attribution]) -> list[Block]:
    """A note that names the readings which are complete, where there are any."""
    names = [name for name, each in readings.items() if is_complete(each)]
    if not names:
        return []
    does = "explains" if len(names) == 1 else "explain"
    bases = "basis is" if len(names) == 1 else "bases are"
    return [
        Note(
            f"True by construction: {listed(names, 8)} {does} 1.00 of the delta because the {bases} complete; any delta "
            "is explained so. Which directions hold the energy is the finding there."
        )
    ]


def _null(result: Attribution) -> Cells:
    """What the same reading explains of deltas turned at random."""
    beside = result.beside_null
    if beside is None:
        return {}
    low, high = decimal(beside.null.low), decimal(beside.null.high)
    return {"of a random delta": f"{decimal(beside.null.value)} [{low}, {high}]", "p": decimal(beside.p)}


def top_directions(result: Attribution, facts: Facts, k: int, *, caption: str) -> Table:
    """The `k` directions with the most energy, with what is known of them."""
    rows = [
        {
            "direction": row["label"],
            "coefficient": row["coefficient"],
            "energy": row["energy"],
            **known(facts.get(row["direction"])),
        }
        for row in result.top(k).to_dict("records")
    ]
    columns = ["direction", "coefficient", "energy"]
    return Table(pd.DataFrame(rows) if rows else [], caption=caption, columns=None if rows else columns)
