"""A probe beside what needs no probe."""

from __future__ import annotations

import math

from mechsteer.probes.evaluation import PartialEffect, ProbeEvaluation, ProbeScores
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Note, Text
from mechsteer.report.forest import Arm
from mechsteer.report.report import Section
from mechsteer.report.sections.words import interval
from mechsteer.report.tables import Table

TITLE = "Probe of right and wrong"


def probe(result: ProbeEvaluation | None, *, site: str = "", pooling: str = "", dropped: str = "") -> list[Section]:
    """AUROC over all rows and within problems, beside baselines. `pooling`: what the probe reads, in words.

    Without a result the section says why, `dropped`.
    """
    if result is None:
        return [Section(TITLE, [Note(f"No probe: {dropped}.")])]
    rows = predictors(result)
    table = [
        {"predictor": name, "all traces": interval(s.auroc), "within problems": interval(s.within_group_auroc)}
        for name, s in rows.items()
    ]
    where = f" on the {pooling or 'activations'}{f' at {site}' if site else ''}" if pooling or site else ""
    blocks: list[Block] = [
        Text(
            f"Is the answer going to be right? Probe{where}; folds hold whole problems. {result.n_samples} traces of "
            f"{result.n_groups} problems, base rate {result.base_rate:.3f}."
        ),
        Table(
            table,
            caption="AUROC on held-out problems with 95 % intervals; within problems only right and wrong traces of one problem are compared",
        ),
    ]
    arms = within_problems(result)
    if arms:
        blocks.append(
            figures.bars(
                arms,
                unit="AUROC within problems",
                reference=0.5,
                highlight="probe",
                title="Right or wrong, within problems",
                caption="0.5 is chance; baselines see one number (or the style) per trace.",
            )
        )
    blocks.append(Text(f"With shuffled labels the probe reaches {interval(result.shuffled)}."))
    return [Section(TITLE, blocks)]


def partial(result: PartialEffect) -> list[Section]:
    """What a feature says beside covariates."""
    rows = [{"of": "the feature, alone", "log-odds per standard deviation [95 %]": interval(result.alone)}]
    rows += [
        {"of": name, "log-odds per standard deviation [95 %]": interval(value)}
        for name, value in {"the feature, beside covariates": result.effect, **result.covariates}.items()
    ]
    text = f"Logistic regression on {result.n_samples} rows of {result.n_groups} groups; intervals resample groups."
    if result.dropped:
        text += f" Covariates that do not vary: {', '.join(result.dropped)}."
    return [Section("Effect beside covariates", [Text(text), Table(rows, caption="Coefficients")])]


def predictors(result: ProbeEvaluation) -> dict[str, ProbeScores]:
    """The probe and its baselines by the names that a reader meets."""
    named = {name.replace("n_steps", "number of steps"): scores for name, scores in result.baselines.items()}
    return {"probe": result.probe, **named}


def within_problems(result: ProbeEvaluation) -> list[Arm]:
    """Each predictor's AUROC within problems, where it has one."""
    found = []
    for name, scores in predictors(result).items():
        value = scores.within_group_auroc
        if not math.isnan(value.value):
            found.append(Arm(name, value.value, (value.low, value.high)))
    return found
