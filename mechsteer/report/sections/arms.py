"""Arms on the same items, their comparisons, harm, and how much of an effect a switch of style explains."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from mechsteer.evaluation import (
    ArmResult,
    Comparison,
    Evaluation,
    PairedComparison,
    PooledSeeds,
    ScoreComparison,
    StyleEffect,
    SwitchAndRest,
    VerdictResult,
)
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.forest import Arm, Forest
from mechsteer.report.report import Section
from mechsteer.report.sections.units import Unit, unit_of
from mechsteer.report.sections.words import Cells, interval, meanings, p_value
from mechsteer.report.tables import Table, decimal

TITLE = "Arms and controls"
_NONE: Mapping[str, str] = {}
PLAIN = Unit("score", "difference", decimals=3)  # where the metric is not known


def arms(result: Evaluation, *, styles: Mapping[str, str] = _NONE) -> list[Section]:
    """Every arm, every comparison, the controls beside the claim. `styles`: what each style means, in words."""
    unit = unit_of(result.metric, result.unit)
    if result.no_op_equals_base is None:
        hook = "There is no no-op arm."
    elif result.no_op_equals_base:
        hook = "The no-op hook changed nothing: what it gives equals base to the bit."
    else:
        hook = "The no-op hook did NOT leave the model as it is: distrust every figure here."
    written = any(not math.isnan(arm.mean_new_tokens) for arm in result.arms)
    n_seeds = max((len(arm.scored.seeds) for arm in result.arms), default=0)
    each = "each arm run once, greedily" if n_seeds == 0 else f"each arm run with {n_seeds} decoding seed(s)"
    asked = "problems" if result.metric == "multiple_choice" else "texts"
    what = f"problems, {each}" if written else f"{asked}, each arm scored once"
    scores = f" Scores: {result.unit}." if result.unit and not unit.mark else ""
    named = meanings((style for arm in result.arms for style in arm.styles), styles)
    blocks: list[Block] = [
        Text(f"{result.n_items} held-out {what}.{scores} {hook}"),
        *([Text(f"Styles of the texts. {named}")] if named else []),
        Table(
            pd.DataFrame([_arm_row(arm, result, unit) for arm in result.arms]),
            caption="Every arm on the same problems or texts; of styles and limits the share of texts in %"
            if any(arm.styles for arm in result.arms)
            else "Every arm on the same problems or texts",
            highlight=[i for i, arm in enumerate(result.arms) if arm.role == "treated"],
        ),
    ]
    if result.comparisons:
        blocks.append(_comparisons(result))
    if result.strict is not None:
        blocks.append(Text(_strictly(result.strict, unit)))
    if any(arm.by_steps for arm in result.arms):
        frame = unit.factor * pd.DataFrame({arm.name: arm.by_steps for arm in result.arms if arm.by_steps}).T
        caption = f"{_capital(unit.name)}{unit.mark and ' in' + unit.mark} by number of steps of the problem"
        table = Table(frame.rename_axis("arm").reset_index(), caption=caption)
        blocks.append(Details("Score by number of steps", [table]))
    if any(arm.harm.neutral or arm.harm.form for arm in result.arms):
        blocks.append(_harm(result))
    if result.verdict is not None:
        blocks += evidence(result.verdict, unit)
    parts = [part for part in (result.style, result.style_at_treated) if part is not None]
    if parts:
        blocks.append(Details("The same by style alone", [style_table(*parts, unit=unit)]))
    return [Section(TITLE, blocks)]


def sampled(result: Evaluation) -> list[Section]:
    """The same arms with sampled answers, several decoding seeds each: does what is said of greedy ones hold?"""
    unit = unit_of(result.metric, result.unit)
    text = f"{result.n_items} held-out problems, each answered with {len(result.base.scored.seeds)} decoding seeds."
    if (main := result.primary) is not None:
        text += (
            f" {main.treated} − {main.base}: {unit.changed(main.difference)}, p = {p_value(main.p_value)} (intervals and "
            "test by problem, whose samples belong together)."
        )
    rows = [_arm_row(arm, result, unit) for arm in result.arms]
    return [Section("Sampled answers", [Text(text), Table(pd.DataFrame(rows), caption="The same arms, sampled")])]


def judged(result: VerdictResult) -> list[Section]:
    """A verdict alone."""
    text = f"{result.kind}: {interval(result.difference)}, p = {p_value(result.p_value)}; margin {result.margin:g}."
    return [Section("Verdict", [Text(text[0].upper() + text[1:]), *evidence(result, PLAIN)])]


def evidence(verdict: VerdictResult, unit: Unit) -> list[Block]:
    """What the verdict stands on: the place among random directions, and what changes within styles."""
    name, change = unit.name, unit.change
    blocks: list[Block] = []
    if (rank := verdict.random) is not None:
        blocks.append(
            Text(
                f"{rank.n_as_good} of {rank.n} random directions score at least as well in {name} (rank p = "
                f"{rank.p_value:.2f}; they score {unit.score(rank.lowest)} to {unit.score(rank.highest)}, on average "
                f"{unit.changed(rank.mean)} beside base)."
            )
        )
    if verdict.within is None:
        if verdict.has_styles:
            blocks.append(Note("Too few problems are answered in one style by both arms to tell style from the rest."))
        return blocks
    blocks += [
        Table(
            [_style_row(effect, unit) for effect in verdict.within.styles],
            caption=f"{_capital(name)}{unit.mark and ' in' + unit.mark} within one style, on the same problems. {_MEANS}",
        ),
        Table(
            [
                {
                    "in the styles of": part.reference if part.reference == "base" else "the treated arm",
                    **{f"{style} (%)": 100 * share for style, share in part.shares.items()},
                    "switch of style [90 %]": change(part.switch),
                    "within styles [90 %]": change(part.beyond),
                }
                for part in verdict.within.parts
            ],
            caption=f"The difference in {name}, in {unit.difference}, as a switch of style and what changes within styles",
        ),
    ]
    return blocks


_MEANS = (
    "Forced: both go on from words of the style; stayed: problems that both answer in it of their own accord; pooled: "
    "too few of these, so all that both answer in one style. Forced answers count where they stay in the style and "
    "base scores behind the words as it does when it writes so itself."
)


def _style_row(effect: StyleEffect, unit: Unit) -> Cells:
    return {
        "style": effect.style,
        "measured on": f"{effect.n} {effect.means}",
        "base": unit.factor * effect.base_score,
        "treated": unit.factor * effect.treated_score,
        "difference [90 %]": unit.change(effect.difference),
        "forced and kept (%)": 100 * effect.kept_style,
        "forced base − its own": unit.factor * effect.unlike,
    }


def _comparisons(result: Evaluation) -> Table:
    treated = result.treated
    unit = unit_of(result.metric, result.unit)
    name = f"{treated.name} − {result.base.name}" if treated else "treated − base"
    return Table(
        pd.DataFrame([_comparison_row(c, unit) for c in result.comparisons]),
        caption=f"Paired comparisons. {name} is the primary test; the others are corrected together (Holm).",
    )


def forest(result: Evaluation) -> Forest:
    """Each arm's difference from base; in a report with a verdict that is on its first screen."""
    base, unit = result.base.name, unit_of(result.metric, result.unit)
    highlight = result.treated.name if result.treated else ""
    return Forest(differences(result), f"difference from {base}, {unit.difference}", reference=0.0, highlight=highlight)


def differences(result: Evaluation) -> list[Arm]:
    """Every arm as its difference from base, base first; in points where scores are shares."""
    base, unit = result.base, unit_of(result.metric, result.unit)
    note = f"{unit.score(base.score)}; every other arm is shown as its difference from this one"
    rows = [Arm(base.name, 0.0, (0.0, 0.0), note)]
    for arm in result.arms:
        compared = result.compared(arm.name, base.name)
        if compared is not None:
            value, low, high = unit.scaled(compared.difference)
            rows.append(Arm(arm.name, value, (low, high), arm.note))
    return rows


def _arm_row(arm: ArmResult, result: Evaluation, unit: Unit) -> Cells:
    heading = {"accuracy": "solved (%)", "multiple_choice": "right (%)"}.get(result.metric, "score")
    row: Cells = {"arm": arm.name, heading: unit.factor * arm.score}
    if any(not math.isnan(each.strict_score) for each in result.arms):
        row["in the strict form (%)"] = 100 * arm.strict_score
    for style in sorted({style for each in result.arms for style in each.styles}):
        row[f"{style} (%)"] = 100 * arm.styles.get(style, 0.0)
    if not math.isnan(arm.mean_new_tokens):
        row |= {"new tokens": arm.mean_new_tokens, "cut at the limit (%)": 100 * arm.hit_limit}
    return row


def _strictly(c: Comparison, unit: Unit) -> str:
    """The primary comparison by the strict form of an answer, in a sentence."""
    return (
        f"Counting answers in the strict form alone, {c.treated} − {c.base} is {unit.changed(c.difference)} (from "
        f"{unit.score(c.base_score)} to {unit.score(c.treated_score)}, {c.gained} gained, {c.lost} lost, p = "
        f"{p_value(c.p_value)}); everything else here counts an answer in any form."
    )


def _comparison_row(c: Comparison, unit: Unit) -> Cells:
    return {
        "comparison": f"{c.treated} − {c.base}",
        f"{'points' if unit.mark else 'difference'} [95 %]": unit.change(c.difference),
        **({} if c.gained is None else {"gained": c.gained, "lost": c.lost}),
        "p": p_value(c.p_value),
        "p (Holm)": "primary" if c.family == "primary" else p_value(c.p_holm),
    }


def _harm(result: Evaluation) -> Details:
    rows = []
    for arm in result.arms:
        row: Cells = {"arm": arm.name}
        if (loss := arm.harm.neutral) is not None:
            row |= {
                "neutral loss": loss.treated,
                "neutral loss − base [95 %]": interval(loss.difference),
                f"within {loss.margin:g} nats": loss.not_inferior,
            }
        if (form := arm.harm.form) is not None:
            row |= {f"repeated {form.ngram}-grams": form.repetition, "compressed to": form.compression}
        rows.append(row)
    caption = "Harm: loss on neutral text in nats per token, and the form of what is written (repetition, zlib's ratio)"
    return Details("Harm", [Table(pd.DataFrame(rows), caption=caption)])


def style_table(*parts: SwitchAndRest, unit: Unit | None = None) -> Table:
    """The effect as a switch of style and the rest, at the scores per style of one arm or of either."""
    rows, unit = [], unit or PLAIN
    heading = f"{'points' if unit.mark else 'difference'} [95 %]"
    for style in parts:
        at = "base's" if style.reference == "base" else "the treated arm's"
        rows += [
            {"part of the difference": f"switch of style at {at} scores", heading: unit.change(style.switch)},
            {
                "part of the difference": f"beyond the switch of style, at {at} scores",
                heading: unit.change(style.beyond),
            },
        ]
    caption = "How much of the effect a switch of style explains"
    if any(style.strata for style in parts):
        caption += " within each number of steps; problems that are written on in different styles are not alike"
    merged = sorted({name for style in parts for name in style.merged})
    if merged:
        caption += f". Rare in some strata, which were merged: {', '.join(merged)}"
    return Table(rows, caption=caption)


def style(result: SwitchAndRest) -> list[Section]:
    """The decomposition alone."""
    rows = [
        {"style": name, "share under base": a, "share when treated": b, "score under base": c, "score when treated": d}
        for name, a, b, c, d in zip(
            result.categories,
            *(result.base_shares, result.treated_shares, result.base_scores, result.treated_scores),
            strict=True,
        )
    ]
    blocks = [style_table(result), Table(rows, caption=f"Shares and scores of each style, {result.n} items")]
    return [Section("Switch of style and the rest", blocks)]


def comparison(result: PairedComparison | ScoreComparison | Comparison) -> list[Section]:
    """Two arms."""
    shares = isinstance(result, PairedComparison) or (isinstance(result, Comparison) and result.gained is not None)
    unit = unit_of("accuracy") if shares else PLAIN
    if isinstance(result, PairedComparison):
        before, after = unit.score(result.base_rate), unit.score(result.treated_rate)
        text = f"From {before} to {after}: {result.gained} gained, {result.lost} lost."
    elif isinstance(result, Comparison):
        text = f"{result.treated} − {result.base}: from {unit.score(result.base_score)} to {unit.score(result.treated_score)}."
    else:
        text = "Treated − base, paired scores."
    row = {
        f"{unit.difference} [95 %]": unit.change(result.difference),
        "p": p_value(result.p_value),
        "test": result.test.replace("_", " "),
        "pairs": result.n,
        "items": result.n_items,
        "detectable with 80 % power": unit.factor * result.detectable,
    }
    return [Section("Paired comparison", [Text(text), Table([row], caption="Treated − base on the same items")])]


def seeds(result: PooledSeeds, *, metric: str = "") -> list[Section]:
    """One result over several adapter seeds; `metric`: of the scores, which says their unit."""
    unit = unit_of(metric) if metric else PLAIN
    names = [*(f"seed {seed}" for seed in result.seeds), "mean"]
    scaled = [unit.scaled(each) for each in (*result.differences, result.mean)]
    rows = [Arm(name, value, (low, high)) for name, (value, low, high) in zip(names, scaled, strict=True)]
    text = (
        f"{len(result.seeds)} seeds on {result.n_items} items: {unit.changed(result.mean)}; "
        f"standard deviation between seeds {decimal(unit.factor * result.between_seeds, unit.decimals)}."
    )
    text += " Intervals of seeds resample items, that of the mean seeds and items."
    forest = Forest(
        rows, f"treated − base, {unit.difference}", "The same training with other random numbers", 0.0, "mean"
    )
    return [Section("Over adapter seeds", [Text(text), forest])]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
