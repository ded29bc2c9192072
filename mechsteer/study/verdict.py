"""The verdict in words: an effect, none, a switch of style, or harm; never more than the controls allow."""

from __future__ import annotations

from typing import Any

from mechsteer.report import Verdict, decimal

ALPHA = 0.05  # two-sided, of the one primary test

QUESTION = {
    "accuracy": "Does one trained steering vector make the model solve more problems?",
    "log_odds": "Does one trained steering vector move the model towards the wanted continuation?",
}
HELD_OUT = {
    "accuracy": "held-out problems, paired, greedy decoding",
    "log_odds": "held-out texts, paired",
}
UNIT = {"accuracy": "share of problems solved", "log_odds": "nats of log-odds"}


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
