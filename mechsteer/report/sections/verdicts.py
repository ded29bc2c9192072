"""The verdict in words. What it is, and by which evidence, is decided in `mechsteer.evaluation.verdicts`."""

from __future__ import annotations

import math

from mechsteer.evaluation import Comparison, Evaluation, PooledSeeds, RandomRank, VerdictResult, WithinStyles
from mechsteer.evaluation.verdicts import N_RANDOM, Kind
from mechsteer.probes.evaluation import ProbeEvaluation
from mechsteer.report.sections.arms import differences
from mechsteer.report.sections.probe import beyond_text, predictors, within_problems
from mechsteer.report.sections.words import interval
from mechsteer.report.tables import decimal
from mechsteer.report.verdict import Verdict

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

METRIC = {"accuracy": "accuracy", "log_odds": "the log-odds", "multiple_choice": "the accuracy of choices"}
CHANCE = 0.05  # of an AUROC: this near to 0.5 is no better than chance


def verdict(result: Evaluation, *, question: str = "", seeds: PooledSeeds | None = None) -> Verdict:
    """First screen: question, difference, interval, statement, all arms, the size of effect the test can detect.

    `seeds`: the same training with other random numbers, where it was made.
    """
    main, unit = _primary(result), UNIT.get(result.metric, result.unit)
    difference = main.difference
    return Verdict(
        question=question or QUESTION.get(result.metric, f"Does {main.treated} change the {result.metric}?"),
        difference=difference.value,
        interval=(difference.low, difference.high),
        unit=unit,
        statement=f"{statement(result)} {over_seeds(seeds, result.metric)}",
        arms=differences(result),
        arms_unit=f"difference from {main.base}, {unit}",
        reference=0.0,
        highlight=main.treated,
        detectable=main.detectable,
        compared=f"{main.treated} − {main.base}, {result.n_items} {HELD_OUT.get(result.metric, 'held-out items, paired')}",
    )


def kind(result: Evaluation) -> Kind:
    """What the first treated arm's difference from base is, by the rules of `mechsteer.evaluation.verdicts`."""
    return _judged(result).kind


def statement(result: Evaluation) -> str:
    """The verdict in two to four sentences."""
    main, judged = _primary(result), _judged(result)
    if math.isnan(main.difference.value):
        return "Undefined: no problem was scored."
    metric, margin = _metric(result.metric), f"{judged.margin:g}"
    went = "rises" if main.difference.value > 0 else "falls" if main.difference.value < 0 else "stays"
    amount = f"{metric} {went} from {decimal(main.base_score)} to {decimal(main.treated_score)}"
    size = f"90 % interval {interval(judged.equivalence)}"
    if judged.open == "size":
        can = f" A difference in {metric} of {main.detectable:.3f} would have been detected with 80 % power."
        return (
            f"Cannot tell: {amount}, no more than chance gives (p = {main.p_value:.2f}), but a difference larger than "
            f"the margin of {margin} is not ruled out ({size}).{'' if math.isnan(main.detectable) else can}"
        )
    if judged.kind == "no effect":
        return f"No effect larger than the margin of {margin}: {amount} ({size}, p = {main.p_value:.2f})."
    if judged.kind == "harm":
        return f"It hurts: {amount} (95 % interval of the difference {interval(main.difference)})."
    among, mean = _among(judged.random, metric), interval(judged.random.mean if judged.random else None)
    told = {
        "random directions": f"Cannot tell: {amount}, but {_too_few(judged.random)}.",
        "specific": f"Cannot tell: {amount}, but {among}; whether it is this direction that counts stays open.",
        "within styles": f"Cannot tell what it is: {amount}, and {among}, but how much of it is a switch of style stays open.",
    }.get(judged.open) or {
        "not specific": f"Not specific: {amount}, but random directions raise {metric} too, by {mean} on average; {among}.",
        "style": f"It only switches the style: {amount}, and what it changes in {metric} within styles is less than the margin of {margin}.",
        "style and possibly more": f"A switch of style and possibly more: {amount}; whether {metric} changes within styles by more than the margin of {margin} cannot be told at this power.",
        "effect": f"An effect: {amount}; {among}.",
    }[judged.kind]
    told += _within(judged.within, metric)
    if judged.kind in ("style", "style and possibly more", "effect"):
        told += _beside_prompts(result, main)
    return told


def over_seeds(seeds: PooledSeeds | None, metric: str) -> str:
    """Over how many adapter seeds it holds, and their spread."""
    if seeds is None or len(seeds.seeds) < 2:
        return "One adapter: how it varies with the seed of its training is not known."
    above, below = seeds.n_above, seeds.n_below
    return (
        f"Of {len(seeds.seeds)} adapter seeds {above} raise and {below} lower {_metric(metric)} (95 % intervals that "
        f"leave out 0); the differences go from {decimal(seeds.lowest)} to {decimal(seeds.highest)}, mean "
        f"{interval(seeds.mean)}, standard deviation {decimal(seeds.between_seeds)}. All else is said of the first seed."
    )


def _too_few(rank: RandomRank | None) -> str:
    n = 0 if rank is None else rank.n
    found = "there is no random direction" if n == 0 else "1 random direction" if n == 1 else f"{n} random directions"
    if n == 0:
        return f"{found} beside it: at least {N_RANDOM} are needed to show that this direction is special"
    cannot = "does not show" if n == 1 else "do not show"
    return f"{found} {cannot} that this direction is special: at least {N_RANDOM} are needed"


def _among(rank: RandomRank | None, metric: str) -> str:
    """The treated arm's place among the random directions."""
    if rank is None:
        return ""
    many = "none" if rank.n_as_good == 0 else str(rank.n_as_good)
    does = "reaches" if rank.n_as_good < 2 else "reach"
    return (
        f"{many} of {rank.n} random directions {does} its {metric.removeprefix('the ')} (rank p = {rank.p_value:.2f}; "
        f"less their mean: {interval(rank.beyond)})"
    )


def _within(within: WithinStyles | None, metric: str) -> str:
    """What changes within styles, and what the switch gives, at both arms' mix of styles."""
    if within is None:
        return ""
    base, treated = within.parts
    text = (
        f" Had both written in the same style on the same problems, {metric} would differ by {interval(base.beyond)} "
        f"in base's mix of styles and by {interval(treated.beyond)} in its own (90 % intervals); the switch of style "
        f"gives {metric.removeprefix('the ')} {interval(base.switch)} and {interval(treated.switch)}."
    )
    if within.merged:
        text += f" Too few pairs share the style {' or '.join(within.merged)}: all that share any style stand for them."
    return text


def _beside_prompts(result: Evaluation, main: Comparison) -> str:
    """The first prompt arm against the treated one, in a sentence."""
    metric = _metric(result.metric).removeprefix("the ")
    prompts = [result.compared(main.treated, arm.name) for arm in result.with_role("prompt")]
    for compared in prompts:
        if compared is None:
            continue
        if compared.difference.high < 0:
            return f" Asking for care in the prompt gives a higher {metric} still."
        if compared.difference.low > 0:
            return f" Its {metric} is also higher than that of asking for care in the prompt."
        return f" Whether asking for care in the prompt gives another {metric} cannot be told."
    return ""


def _metric(name: str) -> str:
    return METRIC.get(name, f"the {name.replace('_', ' ')}")


def _judged(result: Evaluation) -> VerdictResult:
    assert result.verdict is not None, "a verdict is about a treated arm"
    return result.verdict


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
    if within.low > 0.5 - CHANCE and within.high < 0.5 + CHANCE:
        text = f"No: within problems a probe does no better than chance, to {CHANCE:g} (AUROC {interval(within)})."
    elif within.low <= 0.5:
        text = f"Cannot tell: within problems a probe reaches an AUROC of {interval(within)}, which chance may give."
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
