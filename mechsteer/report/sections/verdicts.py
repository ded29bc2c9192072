"""The verdict in words. What it is, and by which evidence, is decided in `mechsteer.evaluation.verdicts`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mechsteer.evaluation import Comparison, Evaluation, PooledSeeds, RandomRank, VerdictResult, WithinStyles
from mechsteer.evaluation.seeds import LEAST
from mechsteer.evaluation.verdicts import N_RANDOM, Kind
from mechsteer.probes.evaluation import ProbeEvaluation
from mechsteer.report.sections.arms import differences
from mechsteer.report.sections.probe import beyond_text, predictors, within_problems
from mechsteer.report.sections.side_effects import side_effects
from mechsteer.report.sections.units import Unit, unit_of
from mechsteer.report.sections.words import interval, p_value, quoted
from mechsteer.report.tables import decimal
from mechsteer.report.verdict import Verdict

QUESTION = {
    "traces": "Can right and wrong reasoning traces of one problem be told apart inside this model?",
    "accuracy": "Does one trained steering vector make the model solve more problems?",
    "multiple_choice": "Does one trained steering vector make the model choose the right option more often?",
    "log_odds": "Does one trained steering vector move the model towards the wanted continuation?",
}
FROM_TO = "Does one trained steering vector move the model from {} towards {}?"
HELD_OUT = {
    "accuracy": "held-out problems, paired, greedy decoding",
    "multiple_choice": "held-out problems, paired, the likeliest option",
    "log_odds": "held-out texts, paired",
}
CHANCE = 0.05  # of an AUROC: this near to 0.5 is no better than chance
Contrast = tuple[str, str]  # the continuation that is promoted, and the other one


def verdict(
    result: Evaluation,
    *,
    question: str = "",
    seeds: PooledSeeds | None = None,
    contrast: Contrast | None = None,
    kl: float = math.nan,
    warnings: Sequence[str] = (),
) -> Verdict:
    """First screen: question, the answer in its terms, side effects, all arms, the size of effect that could be seen.

    `seeds`: the same training with other random numbers, where it was made; `contrast`: of log-odds; `kl`: how far
    the steering moves the model, in nats per token; `warnings`: what the reader must know before the figures.
    """
    main, unit = _primary(result), unit_of(result.metric, result.unit)
    difference, low, high = unit.scaled(main.difference)
    against = "" if contrast is None else f" of {quoted(contrast[0])} against {quoted(contrast[1])}"
    told = f"{unit.difference}{against}"
    return Verdict(
        question=question or asked(result.metric, contrast) or f"Does {main.treated} change the {unit.name}?",
        difference=difference,
        interval=(low, high),
        unit=told,
        decimals=unit.decimals,
        statement=statement(result, contrast=contrast),
        more=f"{more(result)} {over_seeds(seeds, result.metric)}".strip(),
        arms=differences(result),
        arms_unit=f"difference from {main.base}, {told}",
        reference=0.0,
        highlight=main.treated,
        detectable=unit.factor * main.detectable,
        compared=f"{main.treated} − {main.base}, {result.n_items} {HELD_OUT.get(result.metric, 'held-out items, paired')}",
        side_effects=side_effects(result, kl=kl),
        warnings=warnings,
    )


def asked(metric: str, contrast: Contrast | None = None) -> str:
    """The question of a study of one trained vector; of log-odds with both continuations in it."""
    if metric == "log_odds" and contrast is not None:
        return FROM_TO.format(quoted(contrast[1]), quoted(contrast[0]))
    return QUESTION.get(metric, "")


def kind(result: Evaluation) -> Kind:
    """What the first treated arm's difference from base is, by the rules of `mechsteer.evaluation.verdicts`."""
    return _judged(result).kind


def statement(result: Evaluation, *, contrast: Contrast | None = None) -> str:
    """The answer to the question in its own terms, and what it stands on, in one or two sentences."""
    main, judged, unit = _primary(result), _judged(result), unit_of(result.metric, result.unit)
    change = main.difference.value
    if math.isnan(change):
        return "Undefined: no problem was scored."
    went = "rise" if change > 0 else "fall" if change < 0 else "stay"
    amount = (
        f"{_subject(result, contrast, went)} from {unit.score(main.base_score)} to {unit.score(main.treated_score)}"
    )
    size, margin = unit.size(change), unit.margin(judged.margin)
    ruled = f"90 % interval {unit.changed(judged.equivalence)}"
    if judged.open == "size":
        could = f" A difference of {unit.size(main.detectable)} would have been detected with 80 % power."
        could = "" if math.isnan(main.detectable) else could
        return (
            f"Cannot tell: {amount}, no more than chance gives (p = {main.p_value:.2f}), but a difference larger than "
            f"the margin of {margin} is not ruled out ({ruled}).{could}"
        )
    if judged.kind == "no effect":
        return f"No, or by less than the margin of {margin}: {amount} ({ruled}, p = {main.p_value:.2f})."
    if judged.kind == "harm":
        return f"No, it hurts, by {size}: {amount} (95 % interval of the difference {unit.change(main.difference)})."
    among = _among(judged.random, unit)
    yes = f"Yes, by {size}"
    open_told = {
        "random directions": f"{yes}; but whether another direction would do as well cannot be told: {amount}, and {_too_few(judged.random)}.",
        "specific": f"{yes}; but whether it is this direction that counts cannot be told: {amount}, and {among}.",
        "within styles": f"{yes}; but how much of it is a switch of style cannot be told: {amount}, and {among}.",
    }
    if judged.open in open_told:
        return open_told[judged.open]
    mean = unit.changed(judged.random.mean if judged.random else None)
    return {
        "not specific": f"{yes}; but random directions do it too: {amount}, random ones change it by {mean} on average, and {among}.",
        "style": f"{yes}; but it only switches the style: {amount}, and within styles it changes by less than the margin of {margin}.",
        "style and possibly more": f"{yes}; but a switch of style gives it, and whether there is more cannot be told: {amount}, and whether it changes within styles by more than the margin of {margin} cannot be told at this power.",
        "effect": f"{yes}: {amount}; {among}.",
    }[judged.kind]


def more(result: Evaluation) -> str:
    """What the answer leaves out: the effect within styles, and the treated arm beside a prompt."""
    main, judged = _primary(result), _judged(result)
    if judged.kind in ("no effect", "harm") or judged.open == "size" or math.isnan(main.difference.value):
        return ""
    unit = unit_of(result.metric, result.unit)
    told = _within(judged.within, unit)
    if judged.kind in ("style", "style and possibly more", "effect"):
        told += _beside_prompts(result, main, unit)
    return told.strip()


def _subject(result: Evaluation, contrast: Contrast | None, verb: str) -> str:
    """What rises or falls, with the verb in its number."""
    if result.metric == "log_odds":
        against = "" if contrast is None else f" of {quoted(contrast[0])} against {quoted(contrast[1])}"
        return f"the log-odds{against} {verb}"
    return f"{unit_of(result.metric, result.unit).name} {verb}s"


def over_seeds(seeds: PooledSeeds | None, metric: str) -> str:
    """Over how many adapter seeds it holds, and their spread."""
    if seeds is None or len(seeds.seeds) < 2:
        return "One adapter: how it varies with the seed of its training is not known."
    above, below, unit = seeds.n_above, seeds.n_below, unit_of(metric)
    pooled = "" if math.isnan(seeds.p_value) else f", pooled test p = {p_value(seeds.p_value)}"
    few = "" if seeds.is_enough else f" A pooled test wants at least {LEAST} seeds."
    lowest, highest, spread = (
        decimal(unit.factor * value, unit.decimals) for value in (seeds.lowest, seeds.highest, seeds.between_seeds)
    )
    return (
        f"Of {len(seeds.seeds)} adapter seeds {above} raise and {below} lower the {unit.name} (95 % intervals that "
        f"leave out 0); the differences go from {lowest} to {highest} {unit.difference}, mean "
        f"{unit.change(seeds.mean)}, standard deviation {spread}{pooled}. All else is said of the first seed.{few}"
    )


def _too_few(rank: RandomRank | None) -> str:
    n = 0 if rank is None else rank.n
    found = "there is no random direction" if n == 0 else "1 random direction" if n == 1 else f"{n} random directions"
    if n == 0:
        return f"{found} beside it: at least {N_RANDOM} are needed to show that this direction is special"
    cannot = "does not show" if n == 1 else "do not show"
    return f"{found} {cannot} that this direction is special: at least {N_RANDOM} are needed"


def _among(rank: RandomRank | None, unit: Unit) -> str:
    """The treated arm's place among the random directions."""
    if rank is None:
        return ""
    many = "none" if rank.n_as_good == 0 else str(rank.n_as_good)
    does = "reaches" if rank.n_as_good < 2 else "reach"
    return (
        f"{many} of {rank.n} random directions {does} its {unit.name} (rank p = {rank.p_value:.2f}; less their mean: "
        f"{unit.changed(rank.beyond)})"
    )


def _within(within: WithinStyles | None, unit: Unit) -> str:
    """What changes within styles, and what the switch gives, at both arms' mix of styles."""
    if within is None:
        return ""
    base, treated = within.parts
    text = (
        f" Had both written in the same style on the same problems, the {unit.name} would differ by "
        f"{unit.changed(base.beyond)} in base's mix of styles and by {unit.changed(treated.beyond)} in its own (90 % "
        f"intervals); the switch of style gives {unit.change(base.switch)} and {unit.changed(treated.switch)}."
    )
    if within.merged:
        text += f" Too few pairs share the style {' or '.join(within.merged)}: all that share any style stand for them."
    return text


def _beside_prompts(result: Evaluation, main: Comparison, unit: Unit) -> str:
    """The first prompt arm against the treated one, in a sentence."""
    prompts = [result.compared(main.treated, arm.name) for arm in result.with_role("prompt")]
    for compared in prompts:
        if compared is None:
            continue
        apart = unit.change(compared.difference)
        if compared.difference.high < 0:
            return f" Asking for care in the prompt gives a higher {unit.name} still (steered − asked: {apart} {unit.difference})."
        if compared.difference.low > 0:
            return f" Its {unit.name} is also higher than that of asking for care in the prompt ({apart} {unit.difference})."
        return f" Whether asking for care in the prompt gives another {unit.name} cannot be told ({apart} {unit.difference})."
    return ""


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
