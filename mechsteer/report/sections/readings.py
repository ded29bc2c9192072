"""Deltas read in bases: how much each reading explains, and the directions with the most energy."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from mechsteer.attribution import Attribution, EffectAttribution, LogitAttribution
from mechsteer.attribution.facts import DirectionFacts
from mechsteer.report.blocks import Block, Details, Text
from mechsteer.report.report import Section
from mechsteer.report.sections.directions import known
from mechsteer.report.sections.effect import compared, effect_blocks
from mechsteer.report.sections.logits import logit_blocks
from mechsteer.report.sections.words import Cells
from mechsteer.report.tables import Table, decimal

Facts = Mapping[int, DirectionFacts]
_NONE: Mapping[str, Facts] = {}
_EXPLAINED = "How much of the delta each reading explains; components + residual = delta in all of them"


def attribution(result: Attribution, *, name: str = "", facts: Facts | None = None) -> list[Section]:
    """One reading as a section of its own. `name`: of the basis."""
    name = name or f"{result.reading} on {result.source.get('kind', 'directions')}"
    blocks = [
        Text(f"The deltas at {result.site}: {result.n_tokens} tokens, expressed as {result.expressed}."),
        Table([shares(name, result)], caption=_EXPLAINED),
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
        blocks.append(Table(rows, caption=_EXPLAINED))
    for name, each in readings.items():
        caption = f"{name}: the directions with the most energy"
        blocks.append(top_directions(each, facts.get(name, {}), 10, caption=caption))
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
        "explained share": result.explained,
        **_null(result),
        "residual norm": result.residual,
        "delta norm": result.norm,
        "expressed": result.expressed,
        "atoms": "all" if result.k is None else str(result.k),
    }


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
