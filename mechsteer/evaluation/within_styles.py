"""What a treatment changes within styles: treated − base had both written in the same style, on the same problems.

A comparison of the texts of one style is confounded: which problems an arm writes carefully on is its own choice, and
hard problems are answered worse in any style. Here every style s is measured by pairs instead, so that each problem is
its own control,

    D_s = mean over problems of treated − base, both in style s

- "forced": both arms go on from the same words, with which a text of style s begins. All problems count. Used only
  where the words do what they should: at least KEEPS of the pairs are in style s under both arms, and on the problems
  where base writes in s of its own accord the forced base scores as it does there, within LIKE. (Words behind which
  every answer is wrong would make any two arms equivalent.)
- "stayed": the problems that both arms answer in style s of their own accord, where these are at least LEAST.
- "pooled": the problems that both answer in one and the same style, whichever; for styles with fewer.

and beyond = Σ_s share_s D_s, once with the shares of base's styles and once with the treated arm's; the switch of
style is the rest, treated − base − beyond. All intervals resample problems, all parts together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy import ndarray
from scipy.stats import norm

from mechsteer.errors import ShapeError
from mechsteer.evaluation.scoring import Scored
from mechsteer.results import Interval, Result

KEEPS = 0.9
LIKE = 0.15
LEAST = 20
CONFIDENCE = 0.90  # both ends are one-sided tests of 5 %, as in two one-sided tests of equivalence

Means = Literal["forced", "stayed", "pooled"]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one arm made of the items: scores [n], and the style of each answer where it has one."""

    scores: ndarray
    styles: ndarray | None = None
    """[n] names"""

    @classmethod
    def of(cls, scored: Scored) -> Answers:
        """Of an arm that was scored; without styles where a text has none."""
        named = [trace.style for trace in scored.traces if trace.style is not None]
        whole = len(named) == len(scored.scores) and named
        return cls(scores=scored.scores, styles=np.array(named) if whole else None)


@dataclass(frozen=True, kw_only=True)
class StyleEffect(Result):
    """treated − base within one style."""

    style: str
    means: Means
    """which pairs measure it"""
    n: int
    """pairs"""
    base_score: float
    treated_score: float
    difference: Interval
    """treated − base, 90 %"""
    kept_style: float = float("nan")
    """share of the forced pairs that both are in the style; nan where none is forced"""
    unlike: float = float("nan")
    """forced base − base on the problems where it writes in this style of its own accord; nan where it does on none"""


@dataclass(frozen=True, kw_only=True)
class SwitchAndBeyond(Result):
    """treated − base = switch + beyond; 90 % intervals."""

    reference: Literal["base", "treated"]
    """whose shares of styles weigh the effects within styles"""
    shares: dict[str, float]
    switch: Interval
    beyond: Interval


@dataclass(frozen=True, kw_only=True)
class WithinStyles(Result):
    """The effects within styles, and what they add up to under both references."""

    styles: tuple[StyleEffect, ...]
    parts: tuple[SwitchAndBeyond, ...]
    """at base's shares, then at the treated arm's"""
    forced_share: float
    """share of the treated arm's answers in styles that are measured by forcing"""

    @property
    def merged(self) -> tuple[str, ...]:
        """Styles with too few pairs of their own."""
        return tuple(effect.style for effect in self.styles if effect.means == "pooled")


def within_styles(
    base: Answers,
    treated: Answers,
    clusters: ndarray,
    weights: ndarray,
    *,
    forced: Mapping[str, tuple[Answers, Answers]] | None = None,
) -> WithinStyles | None:
    """The effects within styles of paired answers [n]; None where answers have no style, or too few pairs share one.

    `clusters [n]` numbers each pair's problem, `weights [n_draws n_problems]` says how often a resample holds it.
    `forced`: style -> (base, treated) that both went on from words of that style, on the same items. Raises
    ShapeError where arms differ in length.
    """
    if base.styles is None or treated.styles is None:
        return None
    forced = forced or {}
    for name, arms in {"": (base, treated), **forced}.items():
        if {len(arm.scores) for arm in arms} != {len(clusters)}:
            raise ShapeError(f"arms {name!r} are not of {len(clusters)} items", "every arm answers the same items")
    names = np.unique(np.concatenate([base.styles, treated.styles])).tolist()
    chosen = [_pairs(style, base, treated, forced.get(style)) for style in names]
    if any(pairs is None for pairs in chosen):
        return None
    pairs = [p for p in chosen if p is not None]
    sums = _Sums(clusters, weights)
    effects = [sums.mean(p.change, p.used) for p in pairs]
    unseen = [unseen_change(len(np.unique(clusters[p.used])), base.scores) for p in pairs]
    total = sums.mean(_change(base, treated), np.ones(len(clusters), dtype=bool))
    parts = []
    shares: dict[str, list[float]] = {}
    sides: tuple[tuple[Literal["base", "treated"], Answers], ...] = (("base", base), ("treated", treated))
    for reference, arm in sides:
        share = [sums.mean((arm.styles == style).astype(float), None) for style in names]
        beyond = sum((s * d for s, d in zip(share, effects, strict=True)), start=np.zeros(1))
        shares[reference] = [float(s[0]) for s in share]
        parts.append(
            SwitchAndBeyond(
                reference=reference,
                shares=dict(zip(names, shares[reference], strict=True)),
                switch=_interval(total - beyond),
                beyond=_interval(beyond, sum(s * u for s, u in zip(shares[reference], unseen, strict=True))),
            )
        )
    return WithinStyles(
        styles=tuple(
            StyleEffect(
                style=style,
                means=p.means,
                n=int(p.used.sum()),
                base_score=float(p.before[p.used].mean()),
                treated_score=float((p.before + p.change)[p.used].mean()),
                difference=_interval(effect, half),
                kept_style=p.kept_style,
                unlike=p.unlike,
            )
            for style, p, effect, half in zip(names, pairs, effects, unseen, strict=True)
        ),
        parts=tuple(parts),
        forced_share=float(sum(s for s, p in zip(shares["treated"], pairs, strict=True) if p.means == "forced")),
    )


@dataclass(frozen=True)
class _Pairs:
    means: Means
    used: ndarray  # [n] bool
    before: ndarray  # [n] base's scores
    change: ndarray  # [n] treated − base
    kept_style: float
    unlike: float


def _pairs(style: str, base: Answers, treated: Answers, forced: tuple[Answers, Answers] | None) -> _Pairs | None:
    """The pairs that measure a style; None where there are too few of any kind."""
    assert base.styles is not None
    assert treated.styles is not None
    kept_style = unlike = float("nan")
    if forced is not None:
        both = [np.zeros(1, dtype=bool) if arm.styles is None else arm.styles == style for arm in forced]
        kept_style = float((both[0] & both[1]).mean())
        own = base.styles == style
        if own.any():
            unlike = float((forced[0].scores[own].astype(float) - base.scores[own]).mean())
        if kept_style >= KEEPS and not abs(unlike) > LIKE:
            used = np.ones(len(base.scores), dtype=bool)
            before = forced[0].scores.astype(float)
            return _Pairs("forced", used, before, _change(*forced), kept_style, unlike)
    stayed = base.styles == treated.styles
    here = stayed & (base.styles == style)
    before = base.scores.astype(float)
    choices: tuple[tuple[Means, ndarray], ...] = (("stayed", here), ("pooled", stayed))
    for means, used in choices:
        if used.sum() >= LEAST:
            return _Pairs(means, used, before, _change(base, treated), kept_style, unlike)
    return None


def _change(base: Answers, treated: Answers) -> ndarray:
    return treated.scores.astype(float) - base.scores.astype(float)


class _Sums:
    """Means over pairs, of the sample (first) and of every resample of problems."""

    def __init__(self, clusters: ndarray, weights: ndarray) -> None:
        self.clusters = clusters
        self.weights = np.concatenate([np.ones((1, weights.shape[1])), weights])

    def mean(self, values: ndarray, used: ndarray | None) -> ndarray:
        """[1 + n_draws]; nan where a resample holds none of the pairs used."""
        mask = np.ones(len(values)) if used is None else used.astype(float)
        n = self.weights.shape[1]
        columns = np.stack([np.bincount(self.clusters, values * mask, n), np.bincount(self.clusters, mask, n)], axis=1)
        summed = self.weights @ columns
        with np.errstate(invalid="ignore"):
            return summed[:, 0] / summed[:, 1]


def _interval(values: ndarray, unseen: float = 0.0) -> Interval:
    return widened(Interval.from_draws(float(values[0]), values[1:], CONFIDENCE), unseen)


def unseen_change(n: int, scores: ndarray) -> float:
    """Half a 90 % interval of the difference of n problems of which one more was gained and one more lost: z √2 / (n + 2).

    0 where answers have another score than right or wrong.
    """
    return float(norm.isf((1 - CONFIDENCE) / 2) * np.sqrt(2) / (n + 2)) if scores.dtype == bool else 0.0


def widened(interval: Interval, half: float) -> Interval:
    """The interval, no end nearer to its value than `half`."""
    low, high = min(interval.low, interval.value - half), max(interval.high, interval.value + half)
    return replace(interval, low=low, high=high)
