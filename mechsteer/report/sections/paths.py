"""Where an effect goes: through which heads, MLPs and edges, and how much of it needs attention patterns to change."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mechsteer.attribution import PathAttribution
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.forest import Arm
from mechsteer.report.report import Section
from mechsteer.report.sections.checks import in_words
from mechsteer.report.sections.words import interval
from mechsteer.report.tables import Table, decimal
from mechsteer.results import Interval


def paths(result: PathAttribution, *, metric: str = "", unit: str = "", n: int = 10) -> list[Section]:
    """One attribution to paths as a section. `metric`: its name in words, if the result's own will not do; `n`: rows."""
    first = f"The intervention at {result.site}, over {len(result.base)} prompts."
    name = metric or result.metric
    total = Interval(value=result.total, low=result.interval[0], high=result.interval[1])
    whole = f"Metric of the effect: {name}. The whole intervention changes it by {interval(total)} {unit}".rstrip()
    blocks: list[Block] = [Text(f"{first} {whole}.")]
    if result.nothing_to_attribute:
        return [Section("Where the effect goes", [*blocks, Note(f"There is nothing to attribute: {result.reason}.")])]
    blocks.append(Text("\n\n".join([_patterns(result, name), _nodes(result), _check(result)])))
    if not result.is_resolved:
        blocks.append(Note(_unresolved(result), kind="warning"))
    named = result.nodes.head(n)
    arms = [Arm(row["node"], row["share"], (row["share_low"], row["share_high"])) for row in named.to_dict("records")]
    blocks += [
        figures.bars(
            arms,
            unit="share of the effect",
            title="Through which parts does the effect flow?",
            caption=f"Integrated gradients ({result.settings.integrated} steps) with 95 % intervals over prompts. A path "
            "passes several parts, so shares overlap; a negative one works against the effect.",
        ),
        Table(_node_rows(named), caption=_node_caption(len(named), result)),
        Table(_edge_rows(result.top(n)), caption=f"The {min(n, result.n_edges)} largest of {result.n_edges} edges"),
        Details(
            "The check in figures",
            [
                Table(in_words(result.node_check), caption=_check_caption("nodes", result)),
                Table(in_words(result.edge_check), caption=_check_caption("edges", result)),
                Table(
                    _patterns_in_words(result.patterns),
                    caption="Share of the effect lost with the patterns of a layer held, or of all",
                ),
            ],
        ),
    ]
    return [Section("Where the effect goes", blocks)]


def _patterns(result: PathAttribution, metric: str) -> str:
    if not len(result.patterns):
        return "No attention follows the intervention: no pattern can change."
    layers = [row for row in result.patterns.to_dict("records") if row["layer"] != "all"]
    largest = max(layers, key=lambda row: abs(row["share"]))
    return (
        f"Attention patterns: with all of them held at what they are without the intervention, the effect on "
        f"{metric} loses {interval(result.needs_patterns)} of itself. That share needs attention patterns to change; the "
        f"rest comes through fixed patterns (the values that heads move), MLPs and the direct path. Layer by layer, "
        f"layer {largest['layer']} matters most: {_interval(largest, 'share', 'low', 'high')}."
    )


def _patterns_in_words(patterns: pd.DataFrame) -> pd.DataFrame:
    return in_words(patterns.rename(columns={"low": "share_low", "high": "share_high"}))


def _nodes(result: PathAttribution) -> str:
    first = result.nodes.iloc[0]
    direct = _share(result.nodes[result.nodes["kind"] == "direct"].iloc[0])
    if first["kind"] == "direct":
        most = f"The largest share, {direct} of the effect, flows straight to the logits."
    else:
        most = (
            f"The largest share flows through {first['node']}: {_share(first)}; straight to the logits flow {direct}."
        )
    return (
        f"{most} What the flows leave out has a share of {decimal(result.residual_share)} at the logits and "
        f"{decimal(result.unsent_share)} behind the intervention."
    )


def _check(result: PathAttribution) -> str:
    sentences = []
    for name, check, n in (
        ("nodes", result.node_check, len(result.nodes)),
        ("edges", result.edge_check, result.n_edges),
    ):
        telling = check[check["k"] < n]  # all of them recover everything
        row = (telling if len(telling) else check).iloc[-1]
        sentences.append(
            f"The top {int(row['k'])} of {n} {name}, everything else held as without the intervention, recover "
            f"{_measured(row, 'sufficiency')} of the effect; held themselves, they take away "
            f"{_measured(row, 'necessity')}. Random sets of the same size recover "
            f"{decimal(row['random_sufficiency'])} and take away {decimal(row['random_necessity'])}."
        )
    return "Check, in runs of the model: " + " ".join(sentences)


def _unresolved(result: PathAttribution) -> str:
    return (
        f"Not resolved: after {result.settings.integrated} steps the flows still miss "
        f"{decimal(result.residual_share)} of the effect at the logits and {decimal(result.unsent_share)} behind the "
        f"intervention. Trust the parts that were held, not the shares."
    )


def _node_rows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "part": row["node"],
            "share": _share(row),
            "straight from the intervention": decimal(row["first"]),
            "straight to the logits": decimal(row["last"]),
            "through queries and keys": "" if row["kind"] != "head" else decimal(row["queries_keys"]),
            "lost when held": _interval(row, "lost", "lost_low", "lost_high"),
        }
        for row in rows.to_dict("records")
    ]


def _edge_rows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "from": row["sender"],
            "to": row["receiver"],
            "share": _share(row),
            "lost when held": _interval(row, "lost", "lost_low", "lost_high"),
        }
        for row in rows.to_dict("records")
    ]


def _node_caption(n: int, result: PathAttribution) -> str:
    return (
        f"The {n} largest of {len(result.nodes)} parts. Lost when held: the share of the effect "
        f"that goes when the model runs with this part alone as it is without the intervention"
    )


def _check_caption(name: str, result: PathAttribution) -> str:
    null = "random sets" if name == "nodes" else "sets made of random whole paths"
    return (
        f"The top k {name}, chosen on the other half of the prompts, alone (sufficiency) and held (necessity), beside "
        f"{null} of k ({result.settings.n_random} draws); all of them together recover everything by construction"
    )


def _share(row: Any) -> str:
    return _interval(row, "share", "share_low", "share_high")


def _measured(row: Any, name: str) -> str:
    return _interval(row, name, f"{name}_low", f"{name}_high")


def _interval(row: Any, value: str, low: str, high: str) -> str:
    return interval(Interval(value=float(row[value]), low=float(row[low]), high=float(row[high])))
