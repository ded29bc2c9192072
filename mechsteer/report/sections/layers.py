"""SAEs: how one was trained, and those of several layers side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mechsteer.features.in_words import SAEStep
from mechsteer.features.layers import QUANTILES, LayersCompared
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Note, Text
from mechsteer.report.report import Section
from mechsteer.report.tables import Table, number

TITLE = "Features of several layers"


def layers(result: LayersCompared) -> list[Section]:
    """One table and one plot over the sites, and what their top features share."""
    rows = [
        {
            "site": str(layer.site),
            "active per token": layer.l0,
            "FVU": layer.fvu,
            "loss recovered": layer.loss_recovered,
            "dead features": layer.dead_share,
            **{f"density, quantile {q}": value for q, value in zip(QUANTILES, layer.density_quantiles, strict=True)},
        }
        for layer in result.layers
    ]
    measured = f"L0, FVU and dead features on {result.n_tokens} tokens of {result.evaluated_on}"
    blocks: list[Block] = [
        Text(
            f"All SAEs were trained on activations of the same forward passes. Spliced in all at once they recover "
            f"{number(result.together)} of the loss that zeroing these sites costs."
        ),
        Table(rows, caption=f"The SAE of each site; {measured}"),
    ]
    if len(rows) > 1:
        blocks.append(_over_layers(result))
    if result.not_scored:
        return [Section(TITLE, [*blocks, Note(f"No ReasonScore: {result.not_scored}.")])]
    blocks.append(
        Table(
            _scores(result),
            caption="ReasonScore of each site: quantiles over features, the features with the highest. None of them was "
            "tested here by putting its tokens into neutral text, so none is called a feature of reasoning",
        )
    )
    if len(rows) > 1:
        blocks.append(_overlap(result))
    return [Section(TITLE, blocks)]


def sae_training(history: Sequence[SAEStep], *, site: str) -> list[Section]:
    """The training of an SAE, on held-out tokens beside the batches trained on; nothing where no history is known."""
    looked = [step for step in history if not math.isnan(step.held_out_fvu)]
    shown = looked or list(history)
    if not shown:
        return []
    curves = {"FVU, trained on": [step.fvu for step in shown]}
    errors = {"FVU, trained on": [step.fvu_error for step in shown]}
    if looked:
        errors["FVU, held out"] = [step.held_out_fvu_error for step in looked]
        curves |= {"FVU, held out": [step.held_out_fvu for step in looked]}
        curves |= {"dead features, held out": [step.held_out_dead_share for step in looked]}
    last = shown[-1]
    l0 = f"trained on {number(last.l0)}" + (f", held out {number(last.held_out_l0)}" if looked else "")
    figure = figures.training_curve(
        [step.step for step in shown],
        curves,
        title=f"Training of the SAE at {site}",
        y_label="share",
        caption="Shares of variance that is not explained (with 95 % intervals over tokens, taken as independent), and of "
        "features that fire on none of the held-out tokens.",
        errors=errors,
    )
    return [Section("How the sparse autoencoder was trained", [Text(f"Active per token at the end: {l0}."), figure])]


def _over_layers(result: LayersCompared) -> figures.Figure:
    curves = {
        "FVU": [layer.fvu for layer in result.layers],
        "loss recovered": [layer.loss_recovered for layer in result.layers],
        "dead features": [layer.dead_share for layer in result.layers],
    }
    return figures.training_curve(
        [float(layer.site.layer) for layer in result.layers],
        {name: values for name, values in curves.items() if not all(map(math.isnan, values))},
        title="SAEs over layers",
        x_label="layer",
        y_label="share",
        caption="Each figure of the table over the layers. One SAE per layer: how much another seed differs is not shown.",
    )


def _scores(result: LayersCompared) -> list[dict[str, object]]:
    return [
        {
            "site": str(layer.site),
            **{f"quantile {q}": value for q, value in zip(QUANTILES, layer.score_quantiles, strict=True)},
            "top features": ", ".join(f"f{feature}" for feature in layer.top),
            "highest": max(layer.top_scores),
        }
        for layer in result.layers
    ]


def _overlap(result: LayersCompared) -> Table:
    names = [str(layer.site) for layer in result.layers]
    cells = [
        {"top features of": name}
        | {
            other: f"{number(float(result.overlap[a, b]))} ({number(float(result.chance[a, b]))})"
            for b, other in enumerate(names)
        }
        for a, name in enumerate(names)
    ]
    caption = (
        "Overlap of layers: mean largest cosine of the row's top features with the column's, by their decoder rows; in "
        "brackets with as many other features of the column, drawn at random"
    )
    return Table(cells, caption=caption)
