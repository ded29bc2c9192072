"""Topology of one trajectory."""

from __future__ import annotations

from mechsteer.report.blocks import Text
from mechsteer.report.diagrams import persistence_diagram
from mechsteer.report.report import Section
from mechsteer.report.tables import Table
from mechsteer.topology.summaries import TopologySummary


def summary(result: TopologySummary) -> list[Section]:
    """One trajectory."""
    rows = [
        {
            "dimension": name,
            "entropy (nats)": bars.entropy_nats,
            "deficit": bars.deficit,
            "normalised": bars.normalized,
            "bars": bars.n_bars,
            "zero bars": bars.n_zero,
            "total": bars.total,
            "longest": bars.max,
        }
        for name, bars in (("H0", result.h0), ("H1", result.h1))
        if bars is not None
    ]
    how = [f"{result.metric} distance", *(["z-scored"] if result.zscore else [])]
    how += [] if result.pca is None else [f"{result.pca} principal components"]
    return [
        Section(
            "Topology of one trajectory",
            [
                Text(f"{result.n_points} points, {', '.join(how)}."),
                Table(rows, caption="Lifetimes of the bars"),
                persistence_diagram(result),
            ],
        )
    ]
