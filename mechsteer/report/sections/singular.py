"""Which triples, maps and layers of a singular adapter carry its effect, switched off one at a time, beside nulls."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mechsteer.attribution import SingularAttribution
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.figures import Figure
from mechsteer.report.report import Section
from mechsteer.report.sections.checks import check_tables
from mechsteer.report.sections.words import Cells, interval, spoken
from mechsteer.report.tables import Table, decimal
from mechsteer.results import Interval

TITLE = "What of the singular adapter carries its effect"


def singular(result: SingularAttribution, *, metric: str = "the metric", unit: str = "", n: int = 8) -> list[Section]:
    """One attribution as a section. `metric`: its name in words; `unit`: of its values; `n`: triples that are shown."""
    total = Interval(value=result.total, low=result.interval[0], high=result.interval[1])
    told = (
        f"{len(result.directions)} singular triples of {_n_adapters(result)} maps, over {len(result.base)} prompts. All of "
        f"them together change {metric} by {interval(total)} {unit}".rstrip()
    )
    blocks: list[Block] = [Text(f"{told}.")]
    if result.nothing_to_attribute:
        return [Section(TITLE, [*blocks, Note(f"There is nothing to attribute: {result.reason}.")])]
    blocks += [Note(result.sentence("the adapter's own singular basis", metric)), Text(_accounting(result))]
    if not result.resolved:
        unresolved = (
            "Not resolved: shares are not parts of the effect. What was really switched off holds all the same."
        )
        blocks.append(Note(unresolved, kind="warning"))
    parts = result.parts.query("kind != 'map of a layer'")
    blocks += [
        Table(_triples(result.top(n)), caption=_triples_caption(result)),
        Table(_parts(parts), caption=_parts_caption(result)),
        _recovery(result, metric),
        Details("Each map of each layer", [Table(_parts(_fine(result)), caption=_parts_caption(result))]),
        Details("What the triples say", _words(result, n)),
        Details("The check in figures", [*check_tables(result.check, f"Shares of the effect on {metric},")]),
    ]
    return [Section(TITLE, blocks)]


def _n_adapters(result: SingularAttribution) -> int:
    return len(_fine(result))


def _fine(result: SingularAttribution) -> pd.DataFrame:
    return result.parts.query("kind == 'map of a layer'")


def _accounting(result: SingularAttribution) -> str:
    row = result.check.iloc[-1]
    said = (
        f"All shares add up to {decimal(result.completeness)} of the effect (1 where the integral is fine enough: a check "
        f"of the sums, not a finding). The top {int(row['k'])}, on contexts they were not selected on: alone they recover "
        f"{_at(row, 'sufficiency')} of it, switched off they take away {_at(row, 'necessity')}."
    )
    if result.settings.nulls_run:
        said += (
            f" In random bases of the same dimensions of the same adapters the top {int(row['k'])} recover "
            f"{_at(row, 'null_sufficiency')} and take away {_at(row, 'null_necessity')}."
        )
    return said


def _triples(rows: pd.DataFrame) -> list[Cells]:
    return [
        {
            "triple": row["label"],
            "singular value": row["singular_value"],
            "scaled by": row["scaled"],
            "U turned": row["turned_u"],
            "V turned": row["turned_v"],
            "share": row["share"],
            "lost when off": _at(row, "lost"),
            "meaningless, off": _at(row, "null_lost"),
            "alone": row["alone"],
        }
        for row in rows.to_dict("records")
    ]


def _parts(rows: pd.DataFrame) -> list[Cells]:
    return [
        {
            "part": row["part"],
            "triples": int(row["n_dirs"]),
            "share": row["share"],
            "lost when off": _at(row, "lost"),
            "as many at random, off": _at(row, "null_lost"),
            "alone": row["alone"],
        }
        for row in rows.to_dict("records")
    ]


def _words(result: SingularAttribution, n: int) -> list[Block]:
    rows, has_sae = result.top(n).to_dict("records"), "feature" in result.directions.columns
    cells = [
        {
            "triple": row["label"],
            "what is shown": row["shown"],
            "promotes": spoken(row["promotes"]),
            "suppresses": spoken(row["suppresses"]),
            **(_feature(row) if has_sae else {}),
        }
        for row in rows
    ]
    said = (
        "Only what o and down write is a direction of the residual stream. Of v it is carried through o, of gate and up "
        "through down, as if nothing between answered; of q and k it is what they read, and its sign means nothing."
    )
    if has_sae:
        said += f" A random direction has a cosine of {decimal(result.chance_cosine)} with the closest feature."
    return [Text(said), Table(cells, caption="The tokens that go with each triple, through the unembedding")]


def _feature(row: Any) -> Cells:
    return {
        "closest feature": f"f{int(row['feature'])}",
        "cosine": row["feature_cosine"],
        "ReasonScore": row["reason_score"],
    }


def _recovery(result: SingularAttribution, metric: str) -> Figure:
    check, run = result.check.astype(float), result.settings.nulls_run
    band = "null_sufficiency" if run else "recorded_null"
    return figures.recovery_curve(
        check["k"],
        check["sufficiency"],
        check["necessity"],
        (check[f"{band}_low"], check[f"{band}_high"]),
        intervals=tuple((check[f"{key}_low"], check[f"{key}_high"]) for key in ("sufficiency", "necessity")),
        control_label="sufficiency in meaningless bases (95 %)",
        title=f"Does keeping or switching off the top triples keep or take away the effect on {metric}?",
        caption="The model really ran with the other triples, or these, switched off, on other contexts than those that "
        "selected them. Vertical lines: 95 % intervals of these triples, on new contexts. Band: the same procedure in "
        f"{run or result.settings.nulls} random bases of the same dimensions{', really run' if run else ', by gradients'}.",
    )


def _triples_caption(result: SingularAttribution) -> str:
    return (
        "The triples with the largest shares. Scaled by: S(c) / S − 1; turned: radians. Lost when off: the share of the "
        "effect that goes when this triple alone is neither scaled nor turned, with a 95 % interval over prompts; "
        f"meaningless: the direction of the same rank in {result.settings.nulls_run} random bases"
    )


def _parts_caption(result: SingularAttribution) -> str:
    return (
        "Lost when off: the share of the effect that goes when the part is left out, with a 95 % interval over prompts, "
        f"beside as many triples picked at random from all ({result.settings.n_random} sets)"
    )


def _at(row: Any, key: str) -> str:
    low, high = (float(row[f"{key}_{end}"]) for end in ("low", "high"))
    return interval(Interval(value=float(row[key]), low=low, high=high))
