"""Diagrams of two kinds of trajectories side by side, topology over layers, how early the shape tells."""

from __future__ import annotations

from collections.abc import Sequence

from mechsteer.evaluation.early import EarlyDetection
from mechsteer.evaluation.shapes import ShapeComparison, ShapeGap
from mechsteer.evaluation.trajectory_layers import TopologyOverLayers
from mechsteer.report import shape_figures
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.report import Section
from mechsteer.report.sections.words import interval, p_value
from mechsteer.report.shape_figures import matched_words
from mechsteer.report.tables import Table, decimal, number
from mechsteer.report.trajectory_view import TrajectoryView
from mechsteer.topology import DiagramGap, TrajectoryMap

LEVEL = 0.05


def shapes(
    result: ShapeComparison | None, *, title: str = "", dropped: str = "", maps: Sequence[TrajectoryMap] = ()
) -> list[Section]:
    """Distances of diagrams beside their null and beside length, curves and images of both kinds; `maps`: examples.

    Without a result the section says why, `dropped`.
    """
    if result is None:
        return [Section(title or "Diagrams of two kinds", [Note(f"No comparison: {dropped}.")])]
    first, second = result.kinds
    title = title or f"Diagrams of {first} and {second} trajectories"
    blocks: list[Block] = [Text(claim(result)), Text(_made_of(result))]
    if maps:
        blocks.append(TrajectoryView(maps, "Examples, the axes are shared."))
    blocks.append(Table([_row(gap) for gap in result.gaps], caption=_caption(result)))
    chosen = [pair for pair in result.curves if pair.matching == "neighbouring"]
    others = [pair for pair in result.curves if pair.matching != "neighbouring"]
    blocks += [shape_figures.curve_pair(pair, result.kinds) for pair in chosen]
    more: list[Block] = [shape_figures.curve_pair(pair, result.kinds) for pair in others]
    more += [shape_figures.image_pair(pair, result.kinds) for pair in result.images]
    blocks.append(Details("Curves of points spread over the trace, and persistence images", more))
    return [Section(title, blocks)]


def claim(result: ShapeComparison) -> str:
    """Whether any distance is more than kinds permuted within problems give, all distances tested at once."""
    first, second = result.kinds
    level = LEVEL / len(result.gaps)
    found = [gap for gap in result.gaps if gap.by_kind.p_value <= level]
    tested = f"{len(result.gaps)} distances tested at once, each at p ≤ {level:.3g}"
    if not found:
        return (
            f"No distance between the diagrams of {first} and {second} trajectories is larger than kinds permuted within "
            f"problems give ({tested})."
        )
    named = "; ".join(
        f"{gap.dimension} {gap.by_kind.distance}, {matched_words(gap.matching)} (p = {p_value(gap.by_kind.p_value)})"
        for gap in found
    )
    said = (
        f"The diagrams of {first} and {second} trajectories differ by more than permuted kinds do: {named} ({tested})."
    )
    long = [gap for gap in found if gap.by_length is not None and gap.by_length.gap >= gap.by_kind.gap]
    if long:
        said += f" In {len(long)} of {len(found)} of these, long and short trajectories of one problem differ at least as much: length may be all of it."
    return said


def layers(result: TopologyOverLayers | None, *, dropped: str = "") -> list[Section]:
    """What topology says about right answers at every layer that was captured."""
    if result is None:
        return [Section("Topology over layers", [Note(f"No comparison of layers: {dropped}.")])]
    rows = []
    for layer in result.layers:
        row = {"site": layer.site, "raw entropy with length (rank)": decimal(layer.raw_rank_correlation)}
        for effect in layer.effects:
            row[effect.name] = effect.dropped or interval(effect.within_problems)
        rows.append(row)
    found = [f"{effect.name} at {layer.site}" for layer in result.layers for effect in layer.effects if effect.beyond]
    beside = ", ".join(result.covariates) or "nothing"
    told = (
        f"Beyond the text (beside {beside}, within problems, all features of all layers tested at once): {'; '.join(found)}."
        if found
        else f"At no layer does topology say more than the text (beside {beside}, within problems, all features of all layers tested at once)."
    )
    caption = f"Within problems, log-odds of a right answer per standard deviation [95 %]; {result.n_traces} traces at {result.n_points} points"
    return [Section("Topology over layers", [Text(told), Table(rows, caption=caption)])]


def early(result: EarlyDetection | None, *, dropped: str = "") -> list[Section]:
    """AUROC by the share of the trace seen, shape beside length."""
    title = "How early the shape of a trajectory tells"
    if result is None:
        return [Section(title, [Note(f"Not measured: {dropped}.")])]
    rows = [
        {
            "share seen": f"{each.share:.0%}",
            "tokens": number(each.mean_tokens),
            "shape, within problems": interval(each.shape_within),
            "length alone": interval(each.length_within),
            "shape beyond length": interval(each.beyond),
            "p": p_value(each.p_value),
        }
        for each in result.shares
    ]
    first = next((each for each in result.shares if each.beyond.low > 0), None)
    told = (
        f"From {first.share:.0%} of the trace on, its shape adds {interval(first.beyond)} AUROC within problems to what length says."
        if first is not None
        else "At no share of the trace does its shape add anything, that can be told from zero, to what length says."
    )
    made = (
        f"{result.n_traces} traces of {result.n_problems} problems at {result.site or 'one site'}, the same at every share; "
        f"{result.n_too_short} are too short. Windows of {result.window} neighbouring tokens."
    )
    if result.undefined:
        made += f" Not defined for all traces and left out: {', '.join(result.undefined)}."
    caption = "AUROC on later problems [95 %], only right and wrong traces of one problem compared; p: of a ridge probe, labels permuted within problems"
    return [Section(title, [Text(told), Text(made), shape_figures.early(result), Table(rows, caption=caption)])]


def gap(result: DiagramGap) -> list[Section]:
    """One distance of two kinds."""
    row = {
        "distance": result.distance,
        "between kinds": result.between,
        "within": result.within,
        "gap": result.gap,
        "permuted [95 %]": interval(result.null),
        "p": p_value(result.p_value),
    }
    caption = f"{result.n_first} and {result.n_second} trajectories, {result.n_mixed_groups} problems hold both kinds"
    return [Section("Distance of two kinds of diagrams", [Table([row], caption=caption)])]


def _made_of(result: ShapeComparison) -> str:
    first, second = result.kinds
    short = result.n_too_short
    text = (
        f"{result.n_used[0]} {first} and {result.n_used[1]} {second} trajectories of {result.n_problems} problems that hold "
        f"both{f', at {result.site}' if result.site else ''}; {result.n_points} points each. Mean length {number(result.mean_length[0])} and "
        f"{number(result.mean_length[1])} tokens. Points spread over a trace lie further apart the longer it is; neighbouring ones do not."
    )
    if sum(short):
        text += f" Too short: {short[0]} {first}, {short[1]} {second}."
    return text


def _caption(result: ShapeComparison) -> str:
    first, second = result.kinds
    return (
        f"Distances between diagrams, in units of distance between points. Gap: twice the mean distance of {first} to {second} minus "
        "the mean of either kind among itself; 0 where kinds do not matter. Permuted: within problems. Length: the gap between "
        "the longer and the shorter half of each problem's trajectories"
    )


def _row(gap: ShapeGap) -> dict[str, object]:
    return {
        "points": "spread" if gap.matching == "spread" else "neighbouring",
        "of": gap.dimension,
        "distance": gap.by_kind.distance,
        "between kinds": gap.by_kind.between,
        "gap": gap.by_kind.gap,
        "permuted [95 %]": interval(gap.by_kind.null),
        "p": p_value(gap.by_kind.p_value),
        "gap of length": float("nan") if gap.by_length is None else gap.by_length.gap,
        "p of length": "" if gap.by_length is None else p_value(gap.by_length.p_value),
    }
