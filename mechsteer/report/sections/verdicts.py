"""The verdict in words: an effect, none, a switch of style, or harm; never more than the controls allow."""

from __future__ import annotations

import math
from typing import Literal

from mechsteer.evaluation import Comparison, Evaluation
from mechsteer.probes.evaluation import ProbeEvaluation
from mechsteer.report.sections.arms import differences
from mechsteer.report.sections.probe import beyond_text, predictors, within_problems
from mechsteer.report.sections.words import interval
from mechsteer.report.tables import decimal
from mechsteer.report.verdict import Verdict

ALPHA = 0.05  # two-sided, of the one primary test

QUESTION = {
    "traces": "Can right and wrong reasoning traces of one problem be told apart inside this model?",
    "accuracy": "Does one trained steering vector make the model solve more problems?",
    "log_odds": "Does one trained steering vector move the model towards the wanted continuation?",
}
HELD_OUT = {
    "accuracy": "held-out problems, paired, greedy decoding",
    "log_odds": "held-out texts, paired",
}
UNIT = {"accuracy": "share of problems solved", "log_odds": "nats of log-odds"}

Kind = Literal["none", "harm", "not specific", "style", "effect"]


def verdict(result: Evaluation, *, question: str = "") -> Verdict:
    """First screen: question, difference, interval, statement, all arms, the size of effect the test can detect."""
    main, unit = _primary(result), UNIT.get(result.metric, result.unit)
    difference = main.difference
    return Verdict(
        question=question or QUESTION.get(result.metric, f"Does {main.treated} change the {result.metric}?"),
        difference=difference.value,
        interval=(difference.low, difference.high),
        unit=unit,
        statement=statement(result),
        arms=differences(result),
        arms_unit=f"difference from {main.base}, {unit}",
        reference=0.0,
        highlight=main.treated,
        detectable=main.detectable,
        compared=f"{main.treated} − {main.base}, {result.n_items} {HELD_OUT.get(result.metric, 'held-out items, paired')}",
    )


def kind(result: Evaluation) -> Kind:
    """What the first treated arm's difference from base is, given its controls."""
    main = _primary(result)
    low, high = main.difference.low, main.difference.high
    if low <= 0 <= high or main.p_value >= ALPHA:
        return "none"
    if high < 0:
        return "harm"
    noise = [result.compared(main.treated, arm.name) for arm in result.with_role("random")]
    if any(c is not None and c.difference.low <= 0 for c in noise):
        return "not specific"
    style = result.style
    if style is not None and style.switch.low > 0 and style.beyond.low <= 0:
        return "style"
    return "effect"


def statement(result: Evaluation) -> str:
    """The verdict in two or three sentences."""
    main = _primary(result)
    if math.isnan(main.difference.value):
        return "Undefined: no problem was scored."
    amount = f"from {decimal(main.base_score)} to {decimal(main.treated_score)}"
    found = kind(result)
    can = f" A difference of {main.detectable:.3f} would have been detected with 80 % power."
    can = "" if math.isnan(main.detectable) else can
    text = {
        "none": f"No effect was found: {amount} is no more than chance gives (p = {main.p_value:.2f}).{can}",
        "harm": f"It hurts: the score falls {amount}.",
        "not specific": f"The score rises {amount}, but a random direction of equal norm does as well: no evidence for this direction.",
        "style": f"It only switches the style: the score rises {amount}, no more than the styles it writes in would give at base's accuracy within each style.",
        "effect": f"An effect: the score rises {amount}; no random direction of equal norm does as much.",
    }[found]
    if found in ("style", "effect"):
        text += _beside_prompts(result, main)
    if result.style is not None and found == "effect":
        text += f" Beyond the switch of style it gives {interval(result.style.beyond)}."
    return text


def _beside_prompts(result: Evaluation, main: Comparison) -> str:
    """The first prompt arm against the treated one, in a sentence."""
    prompts = [result.compared(main.treated, arm.name) for arm in result.with_role("prompt")]
    for compared in prompts:
        if compared is None:
            continue
        if compared.difference.high < 0:
            return " Asking for care in the prompt does better still."
        if compared.difference.low > 0:
            return " It also beats asking for care in the prompt."
        return " Asking for care in the prompt does about as well."
    return ""


def _primary(result: Evaluation) -> Comparison:
    main = result.primary
    assert main is not None, "a verdict is about a treated arm"
    return main


def probe_verdict(result: ProbeEvaluation, *, site: str, question: str = QUESTION["traces"]) -> Verdict:
    """First screen where nothing is steered: the probe within problems, beside what needs no model at all."""
    within = result.probe.within_group_auroc
    return Verdict(
        question=question,
        difference=within.value - 0.5,
        interval=(within.low - 0.5, within.high - 0.5),
        unit="AUROC above chance",
        statement=probe_statement(result),
        arms=[
            (name, s.within_group_auroc.value, (s.within_group_auroc.low, s.within_group_auroc.high), "")
            for name, s in predictors(result).items()
        ],
        arms_unit="AUROC within problems (0.5 is chance)",
        reference=0.5,
        highlight="probe",
        detectable=2.8 * (within.high - within.low) / (2 * 1.96),  # the normal approximation to the bootstrap's spread
        compared=f"logistic probe at {site}, {result.n_samples} traces of {result.n_groups} problems, trained and tested on different problems",
    )


def probe_statement(result: ProbeEvaluation) -> str:
    """Told apart or not, within problems; and what between problems needs no probe."""
    within, overall = result.probe.within_group_auroc, result.probe.auroc
    if math.isnan(within.value):
        return "Undefined: no problem has both right and wrong traces."
    if within.low <= 0.5:
        text = f"No: within problems a probe does no better than chance (AUROC {interval(within)})."
    else:
        text = f"Yes: within problems a probe reaches an AUROC of {interval(within)}."
        rivals = {arm.name: arm.value for arm in within_problems(result)[1:] if arm.interval[1] >= within.low}
        if said := beyond_text(result):
            text += f" {said}"
        elif rivals:
            name = max(rivals, key=lambda rival: rivals[rival])
            text += f" But {name} alone does about as well ({decimal(rivals[name])})."
    others = {name: s.auroc.value for name, s in predictors(result).items() if name != "probe"}
    known = {name: value for name, value in others.items() if not math.isnan(value)}
    text += f" Across problems it reaches {decimal(overall.value)}"
    if not known:
        return f"{text}."
    name = max(known, key=lambda other: known[other])
    return f"{text}, {name} alone {decimal(known[name])}."
