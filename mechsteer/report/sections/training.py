"""How a steering was trained and chosen, and the traces that all else is measured on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mechsteer.evaluation.choice import SteeringChoice, TraceSummary
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Text
from mechsteer.report.figures import Figure
from mechsteer.report.report import Section
from mechsteer.report.sections.strengths import table
from mechsteer.report.tables import Table, decimal, number
from mechsteer.training import FitResult

_CURVES = "Loss and what it is made of, per epoch; epoch 0 is the state before training."


def training(result: FitResult, *, caption: str = _CURVES) -> list[Section]:
    """One run of `fit`."""
    text = (
        f"{max(len(result.history) - 1, 0)} epochs in {result.seconds:.1f} s; "
        f"the parameters of epoch {result.best_epoch} are used."
    )
    last = result.history[-1] if result.history else None
    blocks: list[Block] = [Text(text), *curves(result, caption=caption)]
    terms = {} if last is None else last.dev or last.train or {}
    if terms:
        rows = [
            {
                "epoch": epoch.epoch,
                **{f"{split}: {k}": v for split in ("train", "dev") for k, v in (getattr(epoch, split) or {}).items()},
            }
            for epoch in result.history
        ]
        blocks.append(Table(rows, caption="Every term of the objective"))
    return [Section("Training", blocks)]


def curves(result: FitResult, *, title: str = "Training", caption: str = _CURVES) -> list[Figure]:
    """Loss on training and dev data, the chosen epoch marked; nothing where there is no history."""
    losses = {
        f"{split} loss": [(getattr(epoch, split) or {}).get("loss", math.nan) for epoch in result.history]
        for split in ("train", "dev")
    }
    shown = {name: np.array(values, dtype=float) for name, values in losses.items() if not np.isnan(values).all()}
    if not result.history or not shown:
        return []
    return [
        figures.training_curve(
            [epoch.epoch for epoch in result.history],
            shown,
            title=title,
            x_label="epoch",
            chosen_step=result.best_epoch,
            caption=caption,
        )
    ]


def adapter(choice: SteeringChoice, fitted: FitResult | None = None) -> list[Section]:
    """The chosen steering: what was tried, how strong it is, how it was trained."""
    verified = choice.metric == "accuracy"
    samples = "of the model's own verified samples" if verified else "prompts with the wanted continuation"
    sites, strengths = choice.chosen.sites, choice.strengths
    raw = ", ".join(number(value) for value in strengths.raw)
    beside = (
        ""
        if math.isnan(choice.median_resid_norm)
        else f" beside a median residual norm of {number(choice.median_resid_norm)}"
    )
    what = "Layer and strength were" if len({c.coeff for c in choice.tried}) > 1 else "The layer was"
    blocks: list[Block] = [
        Text(
            f"An adapter at {', '.join(sites)}, trained on {choice.n_samples} {samples}. What it adds has the norm {raw}{beside}; "
            f"it moves the model by {number(strengths.kl)} nats (mean KL per token of the model's own greedy continuations). "
            f"{what} chosen on dev (base there: {decimal(choice.base_score)})."
        ),
        Table(
            [
                {"site": ", ".join(c.sites), "coeff": c.coeff, "score": c.score, "dev problems": c.n_items}
                for c in choice.tried
            ],
            caption="Dev score of each layer and strength; the poorer half is left after each part of the problems",
            highlight=[i for i, c in enumerate(choice.tried) if c == choice.chosen],
        ),
        table(strengths),
    ]
    if fitted is not None:
        left = "questions" if verified else "prompts"
        caption = f"Cross-entropy on its samples, KL to the model as it is on the {left}, size of what is added."
        blocks += curves(fitted, title="Training of the chosen adapter", caption=caption)
    return [Section("The adapter", blocks)]


def traces(splits: Sequence[TraceSummary], *, source: str, left_out: int = 0, cut: int = 0) -> list[Section]:
    """What is measured on. `source`: where the traces come from; `left_out`: too long for the context; `cut`: problems
    of which a part was given."""
    judged = any(not math.isnan(split.accuracy) for split in splits)
    rows = []
    for split in splits:
        row: dict[str, object] = {"split": split.split, "n traces": split.n_traces, "n problems": split.n_problems}
        if judged:
            row |= {"accuracy": split.accuracy, "problems with both": split.problems_with_both}
        rows.append(row | {f"style: {name}": share for name, share in split.styles.items()})
    caption = "What the figures above are measured on; problems never cross splits"
    told = f"Traces: {source}. {left_out} were too long for the context and left out."
    if cut:
        told += f" Of {cut} problems only a part was given to the model: its first tokens (prompt_tokens), or what truncate keeps."
    blocks = [Text(told), Table(rows, caption=caption)]
    return [Section("Traces", blocks)]
