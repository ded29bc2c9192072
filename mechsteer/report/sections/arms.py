"""Arms on the same items, their comparisons, harm, and how much of an effect a switch of style explains."""

from __future__ import annotations

import math

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
from mechsteer.report.sections.words import Cells, interval, p_value
from mechsteer.report.tables import Table, decimal

TITLE = "Arms and controls"


def arms(result: Evaluation) -> list[Section]:
    """Every arm, every comparison, the controls beside the claim."""
    if result.no_op_equals_base is None:
        hook = "There is no no-op arm."
    elif result.no_op_equals_base:
        hook = "The no-op hook changed nothing: what it gives equals base to the bit."
    else:
        hook = "The no-op hook did NOT leave the model as it is: distrust every figure here."
    written = any(not math.isnan(arm.mean_new_tokens) for arm in result.arms)
    n_seeds = max((len(arm.scored.seeds) for arm in result.arms), default=0)
    each = "each arm run once, greedily" if n_seeds == 0 else f"each arm run with {n_seeds} decoding seed(s)"
    what = f"problems, {each}" if written else "texts, each arm scored once"
    unit = f" Scores: {result.unit}." if result.unit else ""
    blocks: list[Block] = [
        Text(f"{result.n_items} held-out {what}.{unit} {hook}"),
        Table(
            pd.DataFrame([_arm_row(arm, result) for arm in result.arms]),
            caption="Every arm on the same problems or texts",
            highlight=[i for i, arm in enumerate(result.arms) if arm.role == "treated"],
        ),
    ]
    if result.comparisons:
        blocks.append(_comparisons(result))
    if any(arm.by_steps for arm in result.arms):
        frame = pd.DataFrame({arm.name: arm.by_steps for arm in result.arms if arm.by_steps}).T
        table = Table(frame.rename_axis("arm").reset_index(), caption="Share solved by number of steps of the problem")
        blocks.append(Details("Score by number of steps", [table]))
    if any(arm.harm.neutral or arm.harm.form for arm in result.arms):
        blocks.append(_harm(result))
    if result.verdict is not None:
        blocks += evidence(result.verdict, result.metric)
    parts = [part for part in (result.style, result.style_at_treated) if part is not None]
    if parts:
        blocks.append(Details("The same by style alone", [style_table(*parts)]))
    return [Section(TITLE, blocks)]


def judged(result: VerdictResult) -> list[Section]:
    """A verdict alone."""
    text = f"{result.kind}: {interval(result.difference)}, p = {p_value(result.p_value)}; margin {result.margin:g}."
    return [Section("Verdict", [Text(text[0].upper() + text[1:]), *evidence(result, "score")])]


def evidence(verdict: VerdictResult, metric: str) -> list[Block]:
    """What the verdict stands on: the place among random directions, and what changes within styles."""
    unit = metric.replace("_", "-")
    blocks: list[Block] = []
    if (rank := verdict.random) is not None:
        blocks.append(
            Text(
                f"{rank.n_as_good} of {rank.n} random directions score at least as well in {unit} (rank p = "
                f"{rank.p_value:.2f}; they score {decimal(rank.lowest)} to {decimal(rank.highest)}, on average "
                f"{interval(rank.mean)} beside base)."
            )
        )
    if verdict.within is None:
        if verdict.has_styles:
            blocks.append(Note("Too few problems are answered in one style by both arms to tell style from the rest."))
        return blocks
    blocks += [
        Table(
            [_style_row(effect) for effect in verdict.within.styles],
            caption=f"{unit} within one style, on the same problems. {_MEANS}",
        ),
        Table(
            [
                {
                    "in the styles of": part.reference if part.reference == "base" else "the treated arm",
                    **{f"share {style}": share for style, share in part.shares.items()},
                    "switch of style [90 %]": interval(part.switch),
                    "within styles [90 %]": interval(part.beyond),
                }
                for part in verdict.within.parts
            ],
            caption=f"The difference in {unit} as a switch of style and what changes within styles",
        ),
    ]
    return blocks


_MEANS = (
    "Forced: both go on from words of the style; stayed: problems that both answer in it of their own accord; pooled: "
    "too few of these, so all that both answer in one style. Forced answers count where they stay in the style and "
    "base scores behind the words as it does when it writes so itself."
)


def _style_row(effect: StyleEffect) -> Cells:
    return {
        "style": effect.style,
        "measured on": f"{effect.n} {effect.means}",
        "base": effect.base_score,
        "treated": effect.treated_score,
        "difference [90 %]": interval(effect.difference),
        "forced and kept": effect.kept_style,
        "forced base − its own": effect.unlike,
    }


def _comparisons(result: Evaluation) -> Table:
    treated = result.treated
    name = f"{treated.name} − {result.base.name}" if treated else "treated − base"
    return Table(
        pd.DataFrame([_comparison_row(c) for c in result.comparisons]),
        caption=f"Paired comparisons. {name} is the primary test; the others are corrected together (Holm).",
    )


def forest(result: Evaluation) -> Forest:
    """Each arm's difference from base; in a report with a verdict that is on its first screen."""
    base = result.base.name
    highlight = result.treated.name if result.treated else ""
    return Forest(differences(result), f"difference from {base}, {result.unit}", reference=0.0, highlight=highlight)


def differences(result: Evaluation) -> list[Arm]:
    """Every arm as its difference from base, base first."""
    base = result.base
    note = f"{decimal(base.score)}; every other arm is shown as its difference from this one"
    rows = [Arm(base.name, 0.0, (0.0, 0.0), note)]
    for arm in result.arms:
        compared = result.compared(arm.name, base.name)
        if compared is not None:
            d = compared.difference
            rows.append(Arm(arm.name, d.value, (d.low, d.high), arm.note))
    return rows


def _arm_row(arm: ArmResult, result: Evaluation) -> Cells:
    row: Cells = {"arm": arm.name, "score": arm.score}
    for style in sorted({style for each in result.arms for style in each.styles}):
        row[f"style: {style}"] = arm.styles.get(style, 0.0)
    if not math.isnan(arm.mean_new_tokens):
        row |= {"new tokens": arm.mean_new_tokens, "hit the limit": arm.hit_limit}
    return row


def _comparison_row(c: Comparison) -> Cells:
    return {
        "comparison": f"{c.treated} − {c.base}",
        "difference [95 %]": interval(c.difference),
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


def style_table(*parts: SwitchAndRest) -> Table:
    """The effect as a switch of style and the rest, at the scores per style of one arm or of either."""
    rows = []
    for style in parts:
        at = "base's" if style.reference == "base" else "the treated arm's"
        rows += [
            {"part of the difference": f"switch of style at {at} scores", "difference [95 %]": interval(style.switch)},
            {
                "part of the difference": f"beyond the switch of style, at {at} scores",
                "difference [95 %]": interval(style.beyond),
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
    if isinstance(result, PairedComparison):
        before, after = f"{decimal(result.base_rate)}", f"{decimal(result.treated_rate)}"
        text = f"From {before} to {after}: {result.gained} gained, {result.lost} lost."
    elif isinstance(result, Comparison):
        text = (
            f"{result.treated} − {result.base}: from {decimal(result.base_score)} to {decimal(result.treated_score)}."
        )
    else:
        text = "Treated − base, paired scores."
    row = {
        "difference [95 %]": interval(result.difference),
        "p": p_value(result.p_value),
        "test": result.test.replace("_", " "),
        "pairs": result.n,
        "items": result.n_items,
        "detectable with 80 % power": result.detectable,
    }
    return [Section("Paired comparison", [Text(text), Table([row], caption="Treated − base on the same items")])]


def seeds(result: PooledSeeds) -> list[Section]:
    """One result over several adapter seeds."""
    rows = [Arm(f"seed {s}", d.value, (d.low, d.high)) for s, d in zip(result.seeds, result.differences, strict=True)]
    rows.append(Arm("mean", result.mean.value, (result.mean.low, result.mean.high)))
    text = (
        f"{len(result.seeds)} seeds on {result.n_items} items: {interval(result.mean)}; "
        f"standard deviation between seeds {decimal(result.between_seeds)}."
    )
    text += " Intervals of seeds resample items, that of the mean seeds and items."
    forest = Forest(rows, "treated − base", "The same training with other random numbers", 0.0, "mean")
    return [Section("Over adapter seeds", [Text(text), forest])]
