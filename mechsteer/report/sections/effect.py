"""Which directions carry an effect, always beside its check."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from mechsteer.attribution import EffectAttribution
from mechsteer.attribution.facts import DirectionFacts
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.figures import Figure
from mechsteer.report.report import Section
from mechsteer.report.sections.directions import contexts, known
from mechsteer.report.sections.words import interval
from mechsteer.report.tables import Table, decimal
from mechsteer.results import Interval

_NONE: Mapping[int, DirectionFacts] = {}


def effect(
    result: EffectAttribution,
    *,
    name: str = "directions",
    metric: str = "",
    unit: str = "",
    facts: Mapping[int, DirectionFacts] = _NONE,
) -> list[Section]:
    """One attribution of an effect as a section of its own. `metric`: its name in words; `unit`: of its values."""
    first = f"The intervention at {result.site}, over {len(result.base)} prompts."
    blocks: list[Block] = [Text(f"{first} Metric of the effect: {metric}." if metric else first)]
    return [Section("What carries the effect", [*blocks, *effect_blocks(result, name=name, unit=unit, facts=facts)])]


def effect_blocks(
    result: EffectAttribution,
    *,
    name: str = "directions",
    unit: str = "",
    facts: Mapping[int, DirectionFacts] = _NONE,
    n: int = 8,
) -> list[Block]:
    """The whole effect, its `n` largest shares, the check as a curve, in words and in figures; `name`: of the basis.

    `facts`: what is known of directions, by number.
    """
    total = Interval(value=result.total, low=result.interval[0], high=result.interval[1])
    whole = f"The whole intervention changes the metric by {interval(total)}{f' {unit}' if unit else ''}."
    blocks: list[Block] = [Text(f"{name[0].upper()}{name[1:]}. {whole}")]
    if result.nothing_to_attribute:
        return [*blocks, Note(f"There is nothing to attribute: {result.reason}.")]
    top = result.top(n)
    blocks += [
        Table(_contributions(top, unit, facts), caption=_reading(result)),
        _recovery(name, result),
        _check(name, result),
    ]
    seen = [
        heatmap
        for direction, label in zip(top["direction"][:4], top["label"][:4], strict=True)
        if (feature := facts[direction].feature if direction in facts else None) is not None
        for heatmap in contexts(str(label), feature)
    ]
    if seen:
        blocks.append(Details("The directions with the largest shares, in context", seen))
    caption = "Recovered share of the effect: kept alone (sufficiency), removed (necessity), beside random controls"
    blocks.append(Details(f"The check in figures ({name})", [Table(result.check, caption=caption)]))
    return blocks


def _contributions(top: pd.DataFrame, unit: str, facts: Mapping[int, DirectionFacts]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "direction": row["label"],
                "coefficient": row["coefficient"],
                unit or "effect": decimal(row["contribution"]),
                "share": decimal(row["share"]),
                **known(facts.get(row["direction"])),
            }
            for row in top.to_dict("records")
        ]
    )


def _reading(result: EffectAttribution) -> str:
    steps = result.settings.integrated
    how = f"integrated gradients ({steps} steps)" if steps else "gradient at the unsteered run"
    return (
        f"Directions with the largest share of the effect: {how} x delta. "
        f"The whole delta adds up to {decimal(result.linear)} this way; what no direction holds has a share of "
        f"{decimal(result.residual_share)}"
    )


def _check(name: str, result: EffectAttribution) -> Text:
    """The check at the largest k in words, controls beside the claim."""
    row = result.check.iloc[-1]
    claim = " and ".join(
        f"{label} {interval(Interval(value=row[key], low=row[f'{key}_low'], high=row[f'{key}_high']))}"
        for key, label in (("sufficiency", "kept alone they recover"), ("necessity", "removed they take away"))
    )
    k = int(row["k"])
    return Text(
        f"The top {k} of the {name}: {claim} of the effect. Controls: {k} random ones recover "
        f"{decimal(row['random_sufficiency'])} and take away {decimal(row['random_necessity'])}; a random direction of "
        f"the same norm recovers {decimal(row['matched_norm_random'])}."
    )


def _recovery(name: str, result: EffectAttribution) -> Figure:
    check = result.check.astype(float)
    return figures.recovery_curve(
        check["k"],
        check["sufficiency"],
        check["necessity"],
        (check["random_sufficiency_low"], check["random_sufficiency_high"]),
        title=f"Does keeping or removing the top {name} keep or remove the effect?",
        caption=f"The model really ran with the edited vector. Band: k random directions of the basis, {result.settings.n_random} draws.",
    )
