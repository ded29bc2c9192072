"""A probe beside all that the text itself says."""

from __future__ import annotations

import math

from mechsteer.probes import TOGETHER, PartialEffect, ProbeEvaluation, ProbeScores
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Note, Text
from mechsteer.report.forest import Arm
from mechsteer.report.probe_figures import calibration
from mechsteer.report.report import Section
from mechsteer.report.sections.words import interval, p_value
from mechsteer.report.tables import Table

TITLE = "Probe of right and wrong"
NAMES = {
    "n_steps": "number of steps",
    "equations": "right and wrong equations",
    "tokens": "token counts",
    TOGETHER: "the text, all of it together",
}
JOINT = "probe and text together"
NEGLIGIBLE = 0.02  # AUROC within problems: a gain that is surely smaller is none


def probe(result: ProbeEvaluation | None, *, site: str = "", pooling: str = "", dropped: str = "") -> list[Section]:
    """What the text says alone, then the probe: AUROC over all rows and within problems. `pooling`: what the probe
    reads, in words.

    Without a result the section says why, `dropped`.
    """
    if result is None:
        return [Section(TITLE, [Note(f"No probe: {dropped}.")])]
    where = f" on the {pooling or 'activations'}{f' at {site}' if site else ''}" if pooling or site else ""
    blocks: list[Block] = []
    if said := beyond_text(result):
        blocks.append(Text(said))
    blocks += [
        Text(
            f"Is the answer right? Probe{where}: of the finished text, its answer included; trained and tested on different "
            f"problems, each tested after all that was trained on. {result.n_samples} traces of {result.n_groups} problems, base rate {result.base_rate:.3f}."
        ),
        Table(
            _rows(result),
            caption="AUROC on held-out problems with 95 % intervals; within problems only right and wrong traces of one problem are compared. Numbers enter the baselines as curves",
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
                caption="0.5 is chance; baselines see the text alone, no state of the model.",
            )
        )
    if not math.isnan(result.p_value):
        shuffled = result.shuffled
        blocks.append(
            Text(
                f"With labels shuffled within problems a ridge probe reaches {shuffled.value:.3f} (from {shuffled.low:.3f} to "
                f"{shuffled.high:.3f}) within problems; with the labels as they are, p = {p_value(result.p_value)}."
            )
        )
    if result.calibration is not None:
        blocks.append(calibration(result.calibration))
    return [Section(TITLE, blocks)]


def beyond_text(result: ProbeEvaluation) -> str:
    """Whether the states know more than the text's own counts, in words; empty without baselines."""
    text = result.baselines.get(result.text)
    if text is None or result.joint is None or result.beyond is None:
        return ""
    value, gain = text.within_group_auroc, result.beyond
    if math.isnan(value.value) or math.isnan(gain.value):
        return (
            "Whether the states know more than the text cannot be told: no problem tested has right and wrong traces."
        )
    name = "the text alone (" + ", ".join(named(each) for each in result.baselines if each != TOGETHER) + ")"
    said = f"Within problems {name} reaches an AUROC of {interval(value)}, the probe {interval(result.probe.within_group_auroc)}."
    added = f"the states add {interval(gain)} to it"
    if gain.low > 0:
        return f"{said} The states know more than the text: {added}."
    if gain.high < NEGLIGIBLE:
        return f"{said} The states say no more than the text's own counts: {added}."
    return f"{said} Whether the states know more than the text cannot be told: {added}."


def partial(result: PartialEffect) -> list[Section]:
    """What a feature says beside covariates."""
    beside = ", ".join(result.covariates) or "nothing"
    rows = [
        {"of the feature": name, "log-odds per standard deviation [95 %]": interval(value)}
        for name, value in (
            ("alone", result.alone),
            (f"beside {beside}", result.effect),
            ("the same, within groups", result.within),
        )
    ]
    text = (
        f"Logistic regression on {result.n_samples} rows of {result.n_groups} groups ({result.n_mixed_groups} hold both "
        "labels); numbers enter as curves, intervals are over groups."
    )
    if result.dropped:
        text += f" Covariates that do not vary, and that nothing stands beside: {', '.join(result.dropped)}."
    return [Section("Effect beside covariates", [Text(text), Table(rows, caption="Coefficients")])]


def named(name: str) -> str:
    """A baseline by the name that a reader meets."""
    return NAMES.get(name, name)


def predictors(result: ProbeEvaluation) -> dict[str, ProbeScores]:
    """The probe and its baselines by the names that a reader meets."""
    return {"probe": result.probe, **{named(name): scores for name, scores in result.baselines.items()}}


def within_problems(result: ProbeEvaluation) -> list[Arm]:
    """Each predictor's AUROC within problems, where it has one."""
    found = []
    for name, scores in predictors(result).items():
        value = scores.within_group_auroc
        if not math.isnan(value.value):
            found.append(Arm(name, value.value, (value.low, value.high)))
    return found


def _rows(result: ProbeEvaluation) -> list[dict[str, str]]:
    """Baselines first."""
    shown = {named(name): scores for name, scores in result.baselines.items()} | {"probe": result.probe}
    if result.joint is not None:
        shown[JOINT] = result.joint
    return [
        {"predictor": name, "all traces": interval(s.auroc), "within problems": interval(s.within_group_auroc)}
        for name, s in shown.items()
    ]
