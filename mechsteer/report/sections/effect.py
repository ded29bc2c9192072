"""Which directions carry an effect, always beside the same procedure in bases that mean nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mechsteer.attribution import EffectAttribution, compare_bases
from mechsteer.attribution.facts import DirectionFacts
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.figures import Figure
from mechsteer.report.report import Section
from mechsteer.report.sections.checks import check_tables, in_words
from mechsteer.report.sections.directions import contexts, known, silent
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
    blocks += effect_blocks(result, name=name, metric=metric, unit=unit, facts=facts)
    return [Section("What carries the effect", blocks)]


def effect_blocks(
    result: EffectAttribution,
    *,
    name: str = "directions",
    metric: str = "",
    unit: str = "",
    facts: Mapping[int, DirectionFacts] = _NONE,
    n: int = 8,
) -> list[Block]:
    """The verdict, the whole effect, its first `n` directions, the check as a curve beside its nulls, and in figures.

    `name`: of the basis; `metric`: in words, named in every sentence; `facts`: what is known of directions, by number.
    """
    metric = metric or "the metric"
    total = Interval(value=result.total, low=result.interval[0], high=result.interval[1])
    whole = f"The whole intervention changes {metric} by {interval(total)}{f' {unit}' if unit else ''}."
    blocks: list[Block] = [Text(f"{_capital(name)}. {whole}")]
    if result.nothing_to_attribute:
        return [*blocks, Note(f"There is nothing to attribute: {result.reason}.")]
    top = result.top(n)
    blocks += [
        Note(_capital(result.sentence(_the(name), metric))),
        Text(_accounting(result, metric)),
        Table(_contributions(top, unit, facts), caption=_reading(result)),
        *([Note(said, kind="warning")] if (said := _silent(top, facts)) else []),
        _recovery(name, metric, result),
        Text(_check(name, metric, result)),
    ]
    if not result.resolved:
        blocks.append(Note(_unresolved(result, metric), kind="warning"))
    seen = [
        heatmap
        for direction, label in zip(top["direction"][:4], top["label"][:4], strict=True)
        if (feature := facts[direction].feature if direction in facts else None) is not None
        for heatmap in contexts(str(label), feature)
    ]
    if seen:
        blocks.append(Details("The directions with the largest shares, in context", seen))
    caption = f"Shares of the effect on {metric}, selected on some contexts and checked on others,"
    blocks.append(Details(f"The check in figures ({name})", [*check_tables(result.check, caption), _chosen(result)]))
    return blocks


def compared(effects: Mapping[str, EffectAttribution], metric: str = "the metric") -> list[Block]:
    """Several bases side by side, with Holm over bases x k; nothing where fewer than two have an effect to attribute."""
    with_effect = {name: each for name, each in effects.items() if not each.nothing_to_attribute}
    if len(with_effect) < 2:
        return []
    table = compare_bases(with_effect)
    good = list(dict.fromkeys(table.loc[table["says_more"], "basis"]))
    words = " and ".join(good) if good else f"None of the {len(with_effect)} bases"
    verb = "say" if len(good) > 1 else "says"
    said = f"{_capital(words)} {verb} more than noise about the effect on {metric}, with Holm's correction over bases and k."
    caption = f"Sufficiency for the effect on {metric}, beside meaningless bases; p after Holm over all rows"
    return [Text(said), Details("All bases side by side", [Table(in_words(table), caption=caption)])]


def _contributions(top: pd.DataFrame, unit: str, facts: Mapping[int, DirectionFacts]) -> pd.DataFrame:
    marks = bool(top["illusion"].any())
    return pd.DataFrame(
        [
            {
                "direction": row["label"],
                "coefficient": row["coefficient"],
                unit or "effect": row["contribution"],
                "share": row["share"],
                **({"taken back": "perhaps" if row["illusion"] else ""} if marks else {}),
                **known(facts.get(row["direction"])),
            }
            for row in top.to_dict("records")
        ]
    )


def _silent(top: pd.DataFrame, facts: Mapping[int, DirectionFacts]) -> str:
    pairs = zip(top["label"], top["direction"], strict=True)
    return silent((str(label), facts.get(direction)) for label, direction in pairs)


def _reading(result: EffectAttribution) -> str:
    settings = result.settings
    how = "gradient at the unsteered run"
    if settings.integrated != 0:
        how = f"integrated gradients, up to {result.steps} steps,"
    return f"The first directions ({settings.selection}), ranked on all contexts: {how} x delta"


def _accounting(result: EffectAttribution, metric: str) -> str:
    """What the shares add up to, and what no direction holds."""
    said = (
        f"All shares and the residual's add up to {decimal(result.completeness)} of the effect on {metric} (1 where the "
        f"integration is fine enough: a check of the sums, not a finding); what no direction holds has a share of "
        f"{decimal(result.residual_share)}."
    )
    marked = [result.labels[i] for i in result.illusions.nonzero()[:, 0].tolist()]
    if marked:
        said += (
            f" What {', '.join(marked)} do alone may be an illusion: the rest of the delta has the opposite share, so "
            "that the whole does not do it."
        )
    return said


def _unresolved(result: EffectAttribution, metric: str) -> str:
    return (
        f"Not resolved: after {result.steps} integration steps gradients account for {decimal(result.completeness)} of the "
        f"effect on {metric}, so shares are not parts of it. What was really run holds all the same."
    )


def _check(name: str, metric: str, result: EffectAttribution) -> str:
    """The check at the largest k in words, nulls beside it."""
    row = result.check.iloc[-1]
    k = int(row["k"])
    own = " and ".join(
        f"{label} {interval(_at(row, key))}"
        for key, label in (("sufficiency", "kept alone they recover"), ("necessity", "removed they take away"))
    )
    said = (
        f"The top {k} of the {name}: {own} of the effect on {metric}, on contexts they were not selected on (intervals "
        f"are of these directions, on new contexts). Of these {k} a share of {decimal(row['chosen_again'])} would be "
        "chosen again on other contexts of the same kind."
    )
    if result.settings.nulls_run:
        said += (
            f" The top {k} of meaningless bases recover {interval(_at(row, 'null_sufficiency'))} and take away "
            f"{interval(_at(row, 'null_necessity'))} of it; own minus null {interval(_at(row, 'beyond_null'))} and "
            f"{interval(_at(row, 'necessity_beyond_null'))}."
        )
    elif result.settings.nulls:
        said += f" By recorded gradients the top {k} of meaningless bases recover {interval(_at(row, 'recorded_null'))} of it."
    if result.settings.nulls:
        said += (
            f" Of {result.settings.nulls} meaningless bases as many are as close to the whole effect on {metric} as "
            f"p = {decimal(row['p'])} says (after Holm over k: {decimal(row['p_holm'])})."
        )
    return said


def _chosen(result: EffectAttribution) -> Table:
    """The sets of directions that the intervals are about."""
    sets = {
        f"checked on part {fold + 1} of the contexts": [result.labels[i] for i in numbers]
        for fold, numbers in enumerate(result.chosen.tolist())
    }
    places = {"place": list(range(1, result.chosen.shape[1] + 1))}
    return Table(
        pd.DataFrame(places | sets),
        caption="The directions checked, each set chosen on all other parts of the contexts",
    )


def _recovery(name: str, metric: str, result: EffectAttribution) -> Figure:
    check, settings = result.check.astype(float), result.settings
    band = "null_sufficiency" if settings.nulls_run else "recorded_null"
    n, how = (settings.nulls_run, "really run") if settings.nulls_run else (settings.nulls, "by recorded gradients")
    return figures.recovery_curve(
        check["k"],
        check["sufficiency"],
        check["necessity"],
        (check[f"{band}_low"], check[f"{band}_high"]),
        intervals=tuple((check[f"{key}_low"], check[f"{key}_high"]) for key in ("sufficiency", "necessity")),
        control_label="sufficiency in meaningless bases (95 %)",
        title=f"Does keeping or removing the top {name} keep or remove the effect on {metric}?",
        caption=(
            "The model really ran with the edited vector, on other contexts than those that selected the directions. "
            "Vertical lines: 95 % intervals of these directions, on new contexts. Band: "
            f"the same procedure in {n} meaningless bases of the same size and geometry, {how}."
        ),
    )


def _at(row: pd.Series, key: str) -> Interval:
    found: Mapping[str, Any] = row.to_dict()
    return Interval(value=float(found[key]), low=float(found[f"{key}_low"]), high=float(found[f"{key}_high"]))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _the(name: str) -> str:
    return f"the basis of {name}"
