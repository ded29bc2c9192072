"""Groups of features beside data without groups, and kinds of features beside the commonest kind."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure as Canvas

from mechsteer.features.clustering import FeatureClusters
from mechsteer.features.kinds import FeatureKinds
from mechsteer.report.blocks import Block, Text
from mechsteer.report.figures import GREY, Figure, styled
from mechsteer.report.report import Section
from mechsteer.report.sections.words import interval, listed, p_value
from mechsteer.report.tables import Table, decimal

ALPHA = 0.05
BY = {
    "cosine": "what they write (cosine of decoder rows)",
    "jaccard": "when they fire (tokens where both fire among those where either does)",
    "correlation": "when they fire (correlation of activations)",
}
MARKS = "os^vD<>p*X"
MOST = 12  # clusters that are listed
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")


def clusters(result: FeatureClusters) -> list[Section]:
    """Whether there are groups at all, then which."""
    blocks: list[Block] = [Text(claim(result))]
    rows = [
        {
            "cluster": str(i + 1),
            "features": n,
            "silhouette": float(np.nanmean(result.silhouettes[result.labels == i])),
            "most typical": listed([f"f{f}" for f in result.members(i)], most=8),
        }
        for i, n in enumerate(result.sizes[:MOST])
    ]
    if rows:
        more = f"; {len(result.sizes) - MOST} smaller ones are left out" if len(result.sizes) > MOST else ""
        blocks.append(Table(rows, caption=f"Clusters by {BY.get(result.by, result.by)}, largest first{more}"))
    return [Section("Clusters of features", [*blocks, cluster_map(result)])]


def claim(result: FeatureClusters) -> str:
    """How many clusters there are, and whether as good ones are found where there are none."""
    of = f"{len(result.features)} features by {BY.get(result.by, result.by)}, {result.method}"
    if math.isnan(result.silhouette):
        return f"No two clusters were found among {of}."
    left = f", {result.n_noise} features in none" if result.n_noise else ""
    text = f"{len(result.sizes)} clusters{left} among {of}: mean silhouette {decimal(result.silhouette)}."
    if result.null is None:
        return f"{text} It was not compared with data without groups, and says nothing by itself."
    drawn = f"The same procedure on data without groups ({result.null_kind}) "
    drawn += (
        "finds no clusters"
        if math.isnan(result.null.value)
        else f"reaches {decimal(result.null.value)} [{decimal(result.null.low)}, {decimal(result.null.high)}]"
    )
    verdict = (
        "The features form groups beyond that" if result.p_value <= ALPHA else "That these groups are real is not shown"
    )
    return f"{text} {drawn} (p = {p_value(result.p_value)}). {verdict}."


def cluster_map(result: FeatureClusters) -> Figure:
    """The first two principal components; the largest clusters in colours and marks of their own."""
    with styled():
        canvas = Canvas(figsize=(4.8, 3.6))
        axes = canvas.add_subplot()
        rest = (result.labels < 0) | (result.labels >= len(MARKS))
        axes.scatter(*result.map[rest].T, s=8, color=GREY, marker=".", label="none, or a smaller one")
        for i in range(min(len(result.sizes), len(MARKS))):
            own = result.labels == i
            axes.scatter(*result.map[own].T, s=12, color=COLOURS[i % len(COLOURS)], marker=MARKS[i], label=f"{i + 1}")
        shares = [f"{100 * share:.0f} % of the variance" for share in result.map_variance]
        axes.set_xlabel(f"first principal component, {shares[0]}")
        axes.set_ylabel(f"second, {shares[1]}")
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    sizes = ", ".join(f"cluster {i + 1}: {n}" for i, n in enumerate(result.sizes[: len(MARKS)]))
    caption = (
        "A point per feature. The map is flat: clusters that are apart may lie on each other here, and the silhouettes are "
        "those of the whole space."
    )
    return Figure(canvas, "Map of the features", caption, f"Scatter of {len(result.features)} features. {sizes}.")


def kinds(result: FeatureKinds) -> list[Section]:
    """How well kinds are told, beside the commonest."""
    scores = [
        {"of": "accuracy", "out of fold": interval(result.accuracy)},
        {"of": "always the commonest kind", "out of fold": interval(result.majority)},
        {"of": "difference", "out of fold": interval(result.gain)},
        {"of": "mean share told of each kind", "out of fold": interval(result.balanced_accuracy)},
    ]
    rows = [
        {"kind": kind, "features": sum(row), **dict(zip((f"told {k}" for k in result.kinds), row, strict=True))}
        for kind, row in zip(result.kinds, result.confusion, strict=True)
    ]
    better = result.gain.low > 0
    said = (
        f"Kinds of features are told better than by always saying the commonest: by {interval(result.gain)}."
        if better
        else f"That kinds of features can be told is not shown: {interval(result.gain)} beyond the commonest kind."
    )
    caption = f"{result.n_features} labelled features in {result.n_groups} groups, each scored by a classifier not taught on it"
    return [
        Section(
            "Kinds of features",
            [Text(said), Table(scores, caption=caption), Table(rows, caption="True kinds (rows) and told kinds")],
        )
    ]
