"""report.html: the run as one page that works offline, every claim beside its controls."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pandas as pd

from mechsteer.configs.schema import Settings
from mechsteer.configs.settings import as_tree, changed
from mechsteer.report import Details, Report, Section, Table, Text, decimal, figures, number
from mechsteer.studies import sections
from mechsteer.studies.verdict import QUESTION, first_screen

Results = dict[str, Any]


def page(
    results: Results, *, settings: Settings, versions: dict[str, str], timings: Results, fingerprint: str | None
) -> Report:
    """The report of whatever stages have run."""
    evaluation, metric = results.get("evaluate"), results["traces"]["metric"]
    blocks = [
        *(_arms(evaluation) if evaluation else []),
        *(sections.attribution(results["attribute"]) if "attribute" in results else []),
        *(sections.features(results["reasonscore"], results["sae"]) if "reasonscore" in results else []),
        *(sections.probe(results["probe"]) if "probe" in results else []),
        *(sections.topology(results["topology"]) if "topology" in results else []),
        *(_adapter(results["train"], metric) if "train" in results else []),
        *(_traces(results["traces"]) if "traces" in results else []),
    ]
    return Report(
        title=f"mechsteer study: {settings.model} on {settings.data}",
        question=QUESTION[metric if evaluation else "traces"],
        verdict=first_screen(results),
        sections=blocks,
        config=as_tree(settings),
        versions=versions,
        seeds={"seed": settings.seed},
        timings=timings,
        fingerprint=fingerprint or "",
        command=" ".join(["mechsteer study", *map(shlex.quote, changed(settings))]),
    )


def _arms(evaluation: Results) -> list[Section]:
    rows = []
    styles = sorted({k for arm in evaluation["arms"].values() for k in arm.get("styles", {})})
    for name, arm in evaluation["arms"].items():
        row = {"arm": name, "score": arm["score"]}
        row |= {f"style: {k}": arm["styles"].get(k, 0.0) for k in styles if "styles" in arm}
        row |= (
            {"new tokens": arm["mean_new_tokens"], "hit the limit": arm["hit_limit"]}
            if "mean_new_tokens" in arm
            else {}
        )
        rows.append(row)
    pairs = [
        {
            "comparison": name,
            "difference [95 %]": sections.interval(c["difference"]),
            **({k: c[k] for k in ("gained", "lost")} if "gained" in c else {}),
            "p": sections.p_value(c["p_value"]),
            "p (Holm)": "primary" if c.get("p_holm") is None else sections.p_value(c["p_holm"]),
        }
        for name, c in evaluation["comparisons"].items()
    ]
    if evaluation["noop_equals_base"]:
        hook = "The no-op hook changed nothing: what it gives equals base to the bit."
    else:
        hook = "The no-op hook did NOT leave the model as it is: distrust every figure here."
    what = (
        "problems, each arm run once, greedily"
        if evaluation["metric"] == "accuracy"
        else "texts, each arm scored once, in nats of log-odds"
    )
    blocks: list[Any] = [
        Text(f"{evaluation['n_problems']} held-out {what}. {hook}"),
        Table(
            pd.DataFrame(rows),
            caption="Every arm on the same problems or texts",
            highlight=[list(evaluation["arms"]).index("adapter")],
        ),
        Table(
            pd.DataFrame(pairs),
            caption="Paired comparisons. adapter − base is the primary test; the others are corrected together (Holm).",
        ),
    ]
    steps = {name: arm["by_steps"] for name, arm in evaluation["arms"].items() if arm.get("by_steps")}
    if steps:
        frame = pd.DataFrame(steps).T.rename_axis("arm").reset_index()
        blocks.append(
            Details(
                "Score by number of steps", [Table(frame, caption="Share solved by number of steps of the problem")]
            )
        )
    style = evaluation["style"]
    if style:
        rows = [
            {"part of adapter − base": name, "difference [95 %]": sections.interval(style[key])}
            for name, key in (
                ("switch of style at base's accuracy per style", "switch"),
                ("beyond the switch of style", "beyond"),
            )
        ]
        blocks.append(Table(pd.DataFrame(rows), caption="How much of the effect a switch of style explains"))
    return [Section("Arms and controls", blocks)]


def _adapter(result: Results, metric: str) -> list[Section]:
    tried = pd.DataFrame(result["tried"])
    history = result["history"]
    losses = {split: [h[split]["loss"] if h[split] else None for h in history] for split in ("train", "dev")}
    curves = {f"{split} loss": np.array(values, float) for split, values in losses.items() if any(values)}
    samples = "of the model's own verified samples" if metric == "accuracy" else "prompts with the wanted continuation"
    choice = "Layer and strength were" if metric == "accuracy" else "The layer was"
    blocks: list[Any] = [
        Text(
            f"One vector at {result['site']}, trained on {result['n_samples']} {samples}. Its norm is {number(result['norm'])} "
            f"beside a median residual norm of {number(result['median_resid_norm'])}; it moves the model by {number(result['kl'])} nats "
            f"(mean KL per token of the model's own greedy continuations). {choice} chosen on dev (base there: {decimal(result['base_dev_score'])})."
        ),
        Table(tried, caption="Dev score of each layer and strength"),
    ]
    left = "questions" if metric == "accuracy" else "prompts"
    if history:
        blocks.append(
            figures.training_curve(
                [h["epoch"] for h in history],
                curves,
                title="Training of the chosen adapter",
                x_label="epoch",
                chosen_step=result["best_epoch"],
                caption=f"Cross-entropy on its samples, KL to the model as it is on the {left}, size of the vector.",
            )
        )
    return [Section("The adapter", blocks)]


def _traces(result: Results) -> list[Section]:
    rows = []
    for split in ("train", "dev"):
        if split in result:
            row = {"split": split, **{k.replace("_", " "): v for k, v in result[split].items() if k != "styles"}}
            rows.append(row | {f"style: {k}": v for k, v in result[split]["styles"].items()})
    if all(row["accuracy"] is None for row in rows):
        rows = [{k: v for k, v in row.items() if k not in ("accuracy", "problems with both")} for row in rows]
    return [
        Section(
            "Traces",
            [
                Text(f"Traces: {result['source']}. {result['left_out_too_long']} were too long for the context."),
                Table(
                    pd.DataFrame(rows), caption="What the figures above are measured on; problems never cross splits"
                ),
            ],
        )
    ]
