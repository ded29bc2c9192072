"""Style or skill: how much of what every adapter gains lies within styles of writing, and how much is a switch of style.

As analyses/style_or_skill asks it of one vector: treated − base with both written in the same style on the same problems,
weighted by how often each style is written; the switch is the rest. Every adapter is at the strength that dev chose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from booster_makes import Answered, Make, Workshop
from booster_scores import Tables
from common import Finding, interval, pooled, within_and_switch

from mechsteer.evaluation import WithinStyles, judge

NULLS = {"skill": "no effect within styles: 0", "style": "no switch: 0"}
TITLE = "What each adapter gains, within styles and by a switch of style, at the strength that dev chose"


def style_or_skill(
    shop: Workshop, every: Mapping[str, Make], chosen: Mapping[str, Sequence[Mapping[str, Any]]], winner: str
) -> tuple[dict[str, Finding], Tables]:
    """Findings about `winner`, and a row for every kind. `chosen`: per kind and seed what dev chose."""
    base = {words: shop.answered(None, 0, opening=words) for words in ("", *shop.problems.openings().values())}
    findings, rows = {}, [{"adapter": "the model as it is", "gain": 0.0, **_written([base[""]])}]
    for name, make in every.items():
        treated = {words: _answered(shop, make, chosen[name], words) for words in base}
        parts = [_within(shop, base, {words: of[i] for words, of in treated.items()}) for i in shop.seeds]
        told = {
            claim: pooled([within_and_switch(part)[k] for part in parts], len(parts), f"{name}; {null}")
            for k, (claim, null) in enumerate(NULLS.items())
        }
        gain = float(np.mean([each.scored.score for each in treated[""]])) - base[""].scored.score
        rows.append(
            {
                "adapter": name,
                "gain": gain,
                "within styles": interval(told["skill"]),
                "switch of style": interval(told["style"]),
                "in styles measured by forcing": float(
                    np.mean([math.nan if part is None else part.forced_share for part in parts])
                ),
                **_written(treated[""]),
            }
        )
        if name == winner:
            findings = told
    return findings, {TITLE: rows}


def _answered(shop: Workshop, make: Make, chosen: Sequence[Mapping[str, Any]], words: str) -> list[Answered]:
    """Per seed, at its own strength, going on from `words`."""

    def of(seed: int) -> Answered:
        return shop.answered(make, seed, float(chosen[seed]["coeff"]), opening=words)

    return shop.each(of, list(shop.seeds))


def _within(shop: Workshop, base: Mapping[str, Answered], treated: Mapping[str, Answered]) -> WithinStyles | None:
    """The effects within styles, answers by opening; None where answers have no style, or too few pairs share one."""
    forced = {style: (base[words].answers, treated[words].answers) for style, words in shop.problems.openings().items()}
    return judge(base[""].answers, treated[""].answers, groups=base[""].scored.groups, forced=forced).within


def _written(arms: Sequence[Answered]) -> dict[str, float]:
    """The share of each style among all texts."""
    styles = [style for arm in arms for style in arm.styles or ()]
    return {f"written {style}": styles.count(style) / len(styles) for style in sorted(set(styles))}
