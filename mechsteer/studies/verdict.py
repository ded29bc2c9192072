"""The verdict in words: an effect, none, a switch of style, or harm; never more than the controls allow."""

from __future__ import annotations

import math
from typing import Any

from mechsteer.report import Verdict, decimal

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


def first_screen(results: dict[str, Any]) -> Verdict | None:
    """The verdict on the steering; where nothing was steered, on the probe; None where neither has run."""
    if "evaluate" in results:
        return verdict(results["evaluate"])
    probe = results.get("probe")
    return None if probe is None or probe["dropped"] else probe_verdict(probe)


def verdict(evaluation: dict[str, Any]) -> Verdict:
    """First screen: question, difference, interval, statement, all arms, the size of effect the test can detect."""
    metric = evaluation["metric"]
    main = evaluation["comparisons"]["adapter − base"]
    difference = main["difference"]
    base = evaluation["arms"]["base"]["score"]
    arms = [("base", 0.0, (0.0, 0.0), f"{decimal(base)}; every other arm is shown as its difference from this one")]
    for name, arm in evaluation["arms"].items():
        if name != "base":
            d = evaluation["comparisons"][f"{name} − base"]["difference"]
            arms.append((name, d["value"], (d["low"], d["high"]), arm["note"]))
    return Verdict(
        question=QUESTION[metric],
        difference=difference["value"],
        interval=(difference["low"], difference["high"]),
        unit=UNIT[metric],
        statement=statement(evaluation),
        arms=arms,
        arms_unit=f"difference from base, {UNIT[metric]}",
        reference=0.0,
        highlight="adapter",
        detectable=float("nan") if main["detectable"] is None else main["detectable"],
        compared=f"adapter − base, {evaluation['n_problems']} {HELD_OUT[metric]}",
    )


def kind(evaluation: dict[str, Any]) -> str:
    """ "none", "harm", "not specific", "style" or "effect"."""
    main = evaluation["comparisons"]["adapter − base"]
    low, high = main["difference"]["low"], main["difference"]["high"]
    if low <= 0 <= high or main["p_value"] >= ALPHA:
        return "none"
    if high < 0:
        return "harm"
    noise = [v for k, v in evaluation["comparisons"].items() if k.startswith("adapter − random")]
    if any(v["difference"]["low"] <= 0 for v in noise):
        return "not specific"
    style = evaluation["style"]
    if style is not None and style["switch"]["low"] > 0 and style["beyond"]["low"] <= 0:
        return "style"
    return "effect"


def statement(evaluation: dict[str, Any]) -> str:
    """The verdict in two or three sentences."""
    main, arms = evaluation["comparisons"]["adapter − base"], evaluation["arms"]
    value, detectable = main["difference"]["value"], main["detectable"]
    amount = f"from {decimal(arms['base']['score'])} to {decimal(arms['adapter']['score'])}"
    found = kind(evaluation)
    can = "" if detectable is None else f" A difference of {detectable:.3f} would have been detected with 80 % power."
    text = {
        "none": f"No effect was found: {amount} is no more than chance gives (p = {main['p_value']:.2f}).{can}",
        "harm": f"It hurts: the score falls {amount}.",
        "not specific": f"The score rises {amount}, but a random direction of equal norm does as well: no evidence for this direction.",
        "style": f"It only switches the style: the score rises {amount}, no more than the styles it writes in would give at base's accuracy within each style.",
        "effect": f"An effect: the score rises {amount}; no random direction of equal norm does as much.",
    }[found]
    prompt = evaluation["comparisons"].get("adapter − careful prefix")
    if prompt is not None and found in ("style", "effect"):
        d = prompt["difference"]
        if d["high"] < 0:
            text += " Asking for care in the prompt does better still."
        elif d["low"] > 0:
            text += " It also beats asking for care in the prompt."
        else:
            text += " Asking for care in the prompt does about as well."
    style = evaluation["style"]
    if style is not None and found == "effect":
        beyond = style["beyond"]
        text += f" Beyond the switch of style it gives {decimal(beyond['value'])} [{decimal(beyond['low'])}, {decimal(beyond['high'])}]."
    return text if value == value else "Undefined: no problem was scored."


def probe_verdict(probe: dict[str, Any]) -> Verdict:
    """First screen where nothing is steered: the probe within problems, beside what needs no model at all."""
    scores = {"probe": probe["probe"], **probe["baselines"]}
    within = {name.replace("n_steps", "number of steps"): s["within_group_auroc"] for name, s in scores.items()}
    arms = [(name, _known(s["value"]), (_known(s["low"]), _known(s["high"])), "") for name, s in within.items()]
    _, value, (low, high), _ = arms[0]
    return Verdict(
        question=QUESTION["traces"],
        difference=value - 0.5,
        interval=(low - 0.5, high - 0.5),
        unit="AUROC above chance",
        statement=probe_statement(probe),
        arms=arms,
        arms_unit="AUROC within problems (0.5 is chance)",
        reference=0.5,
        highlight="probe",
        detectable=2.8 * (high - low) / (2 * 1.96),  # the normal approximation to the bootstrap's spread
        compared=f"logistic probe at {probe['site']}, {probe['n_samples']} traces of {probe['n_groups']} problems, folds hold whole problems",
    )


def probe_statement(probe: dict[str, Any]) -> str:
    """Told apart or not, within problems; and what between problems needs no probe."""
    scores = probe["probe"]
    within, overall = scores["within_group_auroc"], scores["auroc"]
    if within["value"] is None:
        return "Undefined: no problem has both right and wrong traces."
    text = f"{decimal(within['value'])} [{decimal(within['low'])}, {decimal(within['high'])}]"
    if within["low"] <= 0.5:
        text = f"No: within problems a probe does no better than chance (AUROC {text})."
    else:
        text = f"Yes: within problems a probe reaches an AUROC of {text}."
        rivals = {
            name.replace("n_steps", "number of steps"): b["within_group_auroc"]["value"]
            for name, b in probe["baselines"].items()
            if (b["within_group_auroc"]["high"] or 0.0) >= within["low"]
        }
        if rivals:
            name = max(rivals, key=lambda k: rivals[k])
            text += f" But {name} alone does about as well ({decimal(rivals[name])})."
    name, best = max(probe["baselines"].items(), key=lambda item: item[1]["auroc"]["value"] or 0.0)
    return (
        f"{text} Across problems it reaches {decimal(overall['value'])}, {name.replace('n_steps', 'number of steps')} alone "
        f"{decimal(best['auroc']['value'])}."
    )


def _known(value: float | None) -> float:
    return math.nan if value is None else value
