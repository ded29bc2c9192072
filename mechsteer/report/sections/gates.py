"""How far a gate is open, token by token, and what topology says of texts before and after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from mechsteer.evaluation.before_after import BeforeAfter
from mechsteer.report.blocks import Block, Note, Text
from mechsteer.report.report import Section
from mechsteer.report.sections.where import readings
from mechsteer.report.tables import Table, number
from mechsteer.report.token_traces import before_after, token_trace

N_TRACES = 6  # texts whose trace is drawn
OPENING = "How far the gate was open at each token, 0 … 1: what is added is multiplied by it."
RAW = (
    "Raw H0 entropy follows the number of tokens (at most ln(n − 1), and mostly just below), so that a steering which "
    "makes texts shorter lowers it. What is compared are both texts at the same number of tokens."
)


def gates(
    tokens: Sequence[Sequence[str]],
    values: Sequence[Tensor] | Sequence[ArrayLike],
    *,
    site: str,
    names: Sequence[str] = (),
    begins: Sequence[int] = (),
    target: float | None = None,
) -> list[Section]:
    """A gate along texts: how far it is open in the mean, a trace per text, and heatmaps.

    `values` [pos] per text, NaN where nothing was steered. `begins`: the first token that was written, of each text.
    `target`: the mean that training held it to.
    """
    rows = [np.asarray(v.float().cpu() if isinstance(v, Tensor) else v, dtype=float) for v in values]
    named = [names[i] if i < len(names) else f"text {i + 1}" for i in range(len(rows))]
    known = np.concatenate([row[~np.isnan(row)] for row in rows]) if rows else np.zeros(0)
    if not len(known):
        return [Section(f"The gate at {site}", [Note("It noted nothing: its scope touches no token of these texts.")])]
    held = "" if target is None else f" Training held the mean to {number(target)}."
    told = (
        f"Open by {number(float(known.mean()))} in the mean of {len(known)} steered tokens, more than half open at "
        f"{number(100 * float((known > 0.5).mean()))} % of them.{held}"
    )
    trace = token_trace(
        dict(list(zip(named, rows, strict=True))[:N_TRACES]),
        title="The gate along each text",
        caption="Texts that the steered model wrote, the first of them: none is chosen. Dotted: where it began to write.",
        y_label="gate",
        begins=dict(zip(named, begins, strict=False)),
        level=target,
        level_name="the mean it was held to",
    )
    (heatmaps,) = readings(tokens, rows, label="gate", what=OPENING, names=named)
    return [Section(f"The gate at {site}", [Text(told), trace, *heatmaps.blocks])]


def change(result: BeforeAfter) -> list[Section]:
    """Topology before and after, at matched length, raw values and lengths beside it."""
    rows = [
        {
            "summary": each.name,
            "compared": f"at {result.n_points} tokens" if each.matched else "whole texts",
            "as it is": float(each.before.mean()),
            "steered": float(each.after.mean()),
            "difference": each.comparison.difference.value,
            "low": each.comparison.difference.low,
            "high": each.comparison.difference.high,
            "p": each.comparison.p_value,
        }
        for each in result.changes
    ]
    entropy = result.of("H0 entropy (nats)")
    blocks: list[Block] = [
        Text(
            f"{result.n_pairs} pairs of texts at {result.site}, both resampled to {result.n_points} tokens; "
            f"{result.too_short} pairs were too short. {RAW}"
        ),
        Table(rows, caption="Means over pairs, the difference with its 95 % interval; p by sign flips, not corrected"),
        before_after(
            entropy.before,
            entropy.after,
            title="H0 entropy at matched length, before and after",
            caption=f"Each point is a problem, both texts at {result.n_points} tokens; dashed: no change.",
            label="H0 entropy (nats)",
        ),
    ]
    return [Section("Topology before and after", blocks)]
