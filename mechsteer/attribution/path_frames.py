"""The tables of a path attribution: nodes, edges, attention patterns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from torch import Tensor

from mechsteer.attribution.path_check import MEASURED, Members, Shares
from mechsteer.attribution.path_flow import Flow
from mechsteer.attribution.path_graph import PathGraph
from mechsteer.results import Interval

DIRECT = "direct"
_MOST_EDGES = 2000  # kept in a result
_UNDEFINED = Interval(value=math.nan, low=math.nan, high=math.nan)


def node_frame(
    graph: PathGraph, found: Flow, members: Members, shares: Shares, gone: Mapping[int, Interval], *, defined: bool
) -> pd.DataFrame:
    n, total = len(graph.nodes), shares.effect.mean()
    means = found.edges.mean(0)
    rows = []
    for i in members.order.tolist():
        node = graph.nodes[i] if i < n else None
        parts = {
            "first": means[0, i],
            "last": means[i + 1, -1] if node else means[0, -1],
            "queries_keys": found.queries_keys[:, i].mean() if node and node.kind == "head" else math.nan,
        }
        rows.append(
            {
                "node": str(node or DIRECT),
                "kind": node.kind if node else DIRECT,
                "layer": node.layer if node else None,
                "head": node.head if node else None,
                **_effect_cells(members.effects[:, i], shares, defined),
                **{name: float(value) / total if defined else math.nan for name, value in parts.items()},
                **_lost_cells(gone.get(i)),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"layer": "Int64", "head": "Int64"})


def edge_frame(
    graph: PathGraph, members: Members, shares: Shares, gone: Mapping[int, Interval], *, defined: bool
) -> pd.DataFrame:
    rows = []
    for i in members.order[:_MOST_EDGES].tolist():
        sender, receiver = graph.edges[i].tolist()
        names = {"sender": graph.senders[sender], "receiver": graph.receivers[receiver]}
        rows.append({**names, **_effect_cells(members.effects[:, i], shares, defined), **_lost_cells(gone.get(i))})
    return pd.DataFrame(rows)


def _effect_cells(effects: Tensor, shares: Shares, defined: bool) -> dict[str, float]:
    share = shares.of(effects.numpy()) if defined else _UNDEFINED
    return {
        "effect": float(effects.mean()),
        "share": share.value,
        "share_low": share.low,
        "share_high": share.high,
    }


def _lost_cells(gone: Interval | None) -> dict[str, float]:
    low, value, high = (gone.low, gone.value, gone.high) if gone else (math.nan,) * 3
    return {"lost": value, "lost_low": low, "lost_high": high}


def completed(check: pd.DataFrame, sizes: Sequence[int], n_members: int) -> pd.DataFrame:
    columns = [f"{null}{name}{end}" for null in ("", "random_") for name in MEASURED for end in ("", "_low", "_high")]
    if len(check):
        return check.reindex(columns=["k", *columns])
    return pd.DataFrame([{"k": size} for size in sorted({min(s, n_members) for s in sizes})], columns=["k", *columns])


def patterns(graph: PathGraph, shares: Shares) -> pd.DataFrame:
    layers = [layer for layer, (heads, _) in graph.layers.items() if heads]
    rows = []
    for name, held in [("all", layers), *((str(layer), [layer]) for layer in layers)] if layers else []:
        share = shares.of(shares.measured(lambda each, held=held: each.patterns(held)), lost=True)
        rows.append({"layer": name, "share": share.value, "low": share.low, "high": share.high})
    return pd.DataFrame(rows, columns=["layer", "share", "low", "high"])
