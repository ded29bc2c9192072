"""Tokens or reasoning: what a feature's own tokens do in neutral text, beside other tokens."""

from __future__ import annotations

import math

from mechsteer.features.cards import NOT_TESTED
from mechsteer.features.falsification import LARGE, SMALL, Falsification, FalsifiedFeature, InjectionEffect
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.report import Section
from mechsteer.report.sections.words import count, interval, spoken
from mechsteer.report.tables import Table, number
from mechsteer.results import Interval

TITLE = "Are they features of reasoning, or of tokens?"


def class_of(feature: int, result: Falsification | None) -> str:
    """What stands beside a feature wherever it is chosen or ranked: its class, or that it was not tested."""
    return (None if result is None else result.kind_of(feature)) or NOT_TESTED


def falsified(result: Falsification | None, *, dropped: str = "") -> list[Section]:
    """One row per feature; where nothing was tested, why."""
    if result is None:
        return [Section(TITLE, [Note(f"Not tested: {dropped}.")])]
    told = (
        f"Into {result.n_texts} neutral texts ({result.neutral}) {count(result.n_injected)} of a feature's own tokens "
        "were put, and other tokens as common into the same places. Cohen's d is that of the feature's activation with "
        "them against the same texts without."
    )
    limits = (
        f"Token-driven: d is at least {LARGE} in some way, and above that of other tokens. Partly: at least {SMALL}. "
        f"Context-driven: under {SMALL} in every way. That a feature is context-driven does not show that it is one of "
        "reasoning: it has not been shown to be none."
    )
    caption = f"Per feature at {result.site} the way of injecting that does most; 95 % intervals over texts"
    blocks: list[Block] = [
        Text(told),
        Table([_row(row) for row in result.features], caption=caption),
        Note(limits, kind="limits"),
    ]
    every = [_effect(row, effect) for row in result.features for effect in row.effects]
    if every:
        blocks.append(Details("Every way of injecting", [Table(every, caption="Cohen's d of every way of injecting")]))
    return [Section(TITLE, blocks)]


def _row(row: FalsifiedFeature) -> dict[str, object]:
    strongest = row.strongest
    told: dict[str, object] = {"feature": f"f{row.feature}", "class": row.kind, "why": row.why}
    told |= {"tokens": spoken(row.words), "other tokens": spoken(row.control_words)}
    if strongest is None:
        return told | {"d": interval(None), "d of others": interval(None), "way": "", "share of f_max": math.nan}
    return told | {
        "d": size(strongest.d),
        "d of others": size(strongest.control),
        "way": f"{strongest.how}, {strongest.figure}",
        "share of f_max": strongest.reach,
    }


def _effect(row: FalsifiedFeature, effect: InjectionEffect) -> dict[str, object]:
    return {
        "feature": f"f{row.feature}",
        "way": f"{effect.how}, {effect.figure}",
        "d": size(effect.d),
        "d of others": size(effect.control),
        "difference": size(effect.excess),
        "share of f_max": effect.reach,
    }


def size(value: Interval) -> str:
    """Cohen's d with its interval; infinite where the activation varies on neither side.

    >>> size(Interval(value=float("inf"), low=float("nan"), high=float("nan")))
    '∞'
    """
    return number(value.value) if math.isinf(value.value) else interval(value)
