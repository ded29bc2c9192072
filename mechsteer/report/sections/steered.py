"""Steering by a feature: what became right and wrong, features ranked by what they do, texts at several strengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mechsteer.evaluation import LEAST_CONTROLS, FeatureSweep, Outcome, PairedOutcomes, Sheet
from mechsteer.features.falsification import Falsification
from mechsteer.report.blocks import Block, Code, Details, Note, Text
from mechsteer.report.comparing import ComparedTexts
from mechsteer.report.rating import strength
from mechsteer.report.report import Section
from mechsteer.report.sections.falsified import class_of
from mechsteer.report.sections.units import unit_of
from mechsteer.report.sections.words import Cells, p_value
from mechsteer.report.tables import Table, decimal, number
from mechsteer.results import Interval

OUTCOMES, RANKED, SHEET = (
    "Answers with and without the feature",
    "Features by what they do",
    "Texts at several strengths",
)
KINDS = ("random feature", "random direction")
N_SHOWN = 3  # pairs of each kind, and prompts of a sheet


def outcomes(result: PairedOutcomes, *, steered_by: str = "", judge: str = "", kind: str = "") -> list[Section]:
    """Counts, McNemar's test, lengths, the same of every control. `steered_by`, `judge` in words; `kind`: the feature's
    class, empty where it was not tested."""
    own = result.steered
    blocks: list[Block] = [
        Text(" ".join(filter(None, (steered_by, kind and f"Its class: {kind}.", counted(own, judge)))))
    ]
    blocks += [Text(beside(result, prefix)) for prefix in KINDS if _of(result, prefix)]
    if few := [f"{len(_of(result, p))} {p}s" for p in KINDS if len(_of(result, p)) < LEAST_CONTROLS]:
        blocks.append(
            Note(f"Of controls there are {' and '.join(few)}: at least {LEAST_CONTROLS} of each say something.")
        )
    if own.unjudged:
        blocks.append(Note(f"{own.unjudged} pairs could not be judged: they are part of no rate or test.", "warning"))
    rows = [_row(own.name, [own]), *(_row(f"{p}s, mean", of) for p in KINDS if (of := _of(result, p)))]
    caption = (
        "What became of the pairs; net: (success − failure) / judged, with its 95 % interval; length: steered − base"
    )
    blocks.append(Table(rows, caption=caption, highlight=0))
    if result.controls:
        every = Table([_row(c.name, [c]) for c in result.controls], caption="Every control on the same problems")
        blocks.append(Details("Every control", [every]))
    return [Section(OUTCOMES, [*blocks, *_texts(result)])]


def counted(own: Outcome, judge: str = "") -> str:
    """The counts in a sentence or two."""
    n = own.success + own.failure + own.unchanged
    told = (
        f"Of {n} judged pairs{f', judged by {judge}' if judge else ''}, {own.success} are a success (wrong as the model is, "
        f"right when steered), {own.failure} a failure (the other way about), {own.unchanged} unchanged."
    )
    if own.comparison is not None:
        change = unit_of("accuracy").changed(own.comparison.difference)
        told += f" Accuracy changes by {change}, McNemar p = {p_value(own.comparison.p_value)}."
    lengths = own.lengths.difference
    share = ""
    if own.base_length > 0:
        relative = 100 * lengths.value / own.base_length
        share = f", {'+' if relative > 0 else ''}{decimal(relative, 1)} %"
    return f"{told} Answers change by {_signed(lengths)} tokens{share}."


def beside(result: PairedOutcomes, prefix: str) -> str:
    """What controls of a kind do."""
    found, own = _of(result, prefix), result.steered
    nets = [c.net for c in found if not math.isnan(c.net)]
    lengths = [c.lengths.difference.value for c in found]
    as_well = sum(net >= own.net for net in nets)
    as_much = sum(abs(length) >= abs(own.lengths.difference.value) for length in lengths)
    spread = f"{_points(min(nets))} to {_points(max(nets))} points" if nets else "undefined"
    return (
        f"{len(found)} {prefix}s of equal norm: net {spread}; {as_well} do at least as well "
        f"(p = {p_value(result.p_value(prefix))}). They change the length by {decimal(min(lengths), 1)} to "
        f"{decimal(max(lengths), 1)} tokens; {as_much} change it as much, to either side "
        f"(p = {p_value(result.p_length(prefix))})."
    )


def _points(net: float) -> str:
    return unit_of("accuracy").score(net).removesuffix(" %")


def _of(result: PairedOutcomes, prefix: str) -> list[Outcome]:
    return [control for control in result.controls if control.name.startswith(prefix)]


def _row(name: str, found: Sequence[Outcome]) -> Cells:
    points = unit_of("accuracy")
    one = found[0] if len(found) == 1 else None
    difference = None if one is None or one.comparison is None else one.comparison.difference
    net = float(np.mean([c.net for c in found]))
    return {
        "arm": name,
        "success": _mean(found, "success"),
        "failure": _mean(found, "failure"),
        "unchanged": _mean(found, "unchanged"),
        "net, points": _points(net) if difference is None else points.change(difference),
        "length, tokens": _signed(found[0].lengths.difference)
        if one is not None
        else decimal(float(np.mean([c.lengths.difference.value for c in found])), 1),
    }


def _mean(found: Sequence[Outcome], name: str) -> str:
    values = [getattr(outcome, name) for outcome in found]
    return str(values[0]) if len(values) == 1 else decimal(float(np.mean(values)), 1)


def _texts(result: PairedOutcomes) -> list[Block]:
    """The first problems that became right and the first that became wrong."""
    blocks: list[Block] = []
    for what, before, after in (("success", "failure", "success"), ("failure", "success", "failure")):
        pairs = [p for p in result.pairs if (p.base_judgement, p.steered_judgement) == (before, after)][:N_SHOWN]
        if pairs:
            compared = ComparedTexts(
                before=[p.base for p in pairs],
                after=[p.steered for p in pairs],
                prompts=[p.prompt for p in pairs],
                caption=f"The first pairs that are a {what}.",
            )
            blocks.append(Details(f"Pairs that are a {what}", [compared]))
    return blocks


def _signed(value: Interval) -> str:
    middle, low, high = (decimal(each, 1) for each in (value.value, value.low, value.high))
    return f"{'+' if value.value > 0 and middle.strip('0.') else ''}{middle} [{low}, {high}]"


def ranked(
    result: FeatureSweep,
    *,
    scores: Mapping[int, float] | None = None,
    where: str = "",
    never_fire: Sequence[int] = (),
    falsified: Falsification | None = None,
) -> list[Section]:
    """Candidates by the dev score under each, and the best on held-out problems beside random features.

    `scores`: ReasonScore of each; `never_fire`: candidates that were left out; `falsified`: where their classes stand.
    """
    unit, best = unit_of(result.metric, result.unit), result.best
    n = len(result.random_test_scores)
    reached = sum(score >= result.test_score for score in result.random_test_scores)
    told = (
        f"{len(result.tried)} features steer{f' {where}' if where else ''} ({result.mode}, γ = {number(result.gamma)}) on "
        f"{result.n_dev} dev problems. The best of them is f{best.feature}: {unit.score(best.score)} there, base "
        f"{unit.score(result.base_dev)}. It was chosen by that, so only other problems tell what it does: on "
        f"{result.n_test} held-out ones it changes the {unit.name} by {unit.changed(result.test.difference)} "
        f"(p = {p_value(result.test.p_value)}), to {unit.score(result.test_score)}."
    )
    against = (
        f"{reached} of {n} random features of the same SAE score as much there (p = {p_value(result.p_random)})."
        if n
        else "No random feature was tried: nothing says how much of it any feature would do."
    )
    known = scores or {}
    rows: list[Cells] = []
    for row in result.tried:
        cells: Cells = {"feature": f"f{row.feature}", f"{unit.name} on dev": unit.score(row.score)}
        cells[f"change, {unit.difference}"] = unit.change(
            Interval(value=row.difference, low=math.nan, high=math.nan)
        ).partition(" [")[0]
        if known:
            cells["ReasonScore"] = known.get(row.feature, math.nan)
        cells["class"] = class_of(row.feature, falsified)
        rows.append(cells | {"f_max": row.f_max})
    blocks: list[Block] = [
        Text(told),
        Text(against),
        Table(rows, caption="Candidates by their score on dev problems, best first", highlight=0),
    ]
    if never_fire:
        blocks.append(Note(f"Left out, for they fire on no trace: {', '.join(f'f{i}' for i in never_fire)}."))
    return [Section(RANKED, blocks)]


def texts(
    result: Sheet,
    *,
    steered_by: str = "",
    files: Sequence[str] = (),
    ratings: Mapping[str, float] | None = None,
    command: str = "",
) -> list[Section]:
    """Where sheet and form lie, what was rated, and the first prompts at every strength."""
    blocks: list[Block] = []
    if steered_by:
        blocks.append(Text(steered_by))
    if files:
        by_strength, form, key = files
        blocks.append(
            Text(
                f"{len(result.prompts)} prompts at {len(result.gammas)} strengths: side by side in {by_strength}; for raters, who "
                f"are not to see it, without strengths in {form}; which letter is which strength is in {key}."
            )
        )
    if ratings:
        rows = [
            {"γ": strength(gamma), "mean rating": mean, "texts rated": n}
            for gamma, (mean, n) in sorted(result.rated(ratings).items())
        ]
        blocks.append(Table(rows, caption="Ratings by strength; the rater knew letters alone"))
    elif command:
        blocks.append(Text(f"Nothing is rated yet: {command} shows here what the form saved."))
    for i, prompt in enumerate(result.prompts[:N_SHOWN]):
        rows = [
            {"γ": strength(text.gamma), "text": text.text.strip() or "nothing was written"} for text in result.at(i)
        ]
        blocks.append(Details(f"Prompt {i + 1}", [Code(prompt), Table(rows, caption="What follows at every strength")]))
    return [Section(SHEET, blocks)]
