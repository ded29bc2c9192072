"""Verdicts: what a treated arm's difference from base is, by rules whose errors are known.

Every word is claimed by evidence, never by its absence, against a margin stated before the run. In this order:

1. p >= .05, or the 95 % interval of treated − base touches 0: "no effect" where the 90 % interval lies within ±margin
   (two one-sided tests of 5 %; Schuirmann 1987), else "cannot tell".
2. The interval is below 0: "harm".
3. The treated arm has to stand out among random directions that were chosen as it was: p = (1 + the number of them
   that score at least as well) / (1 + their number) <= .05, which takes N_RANDOM of them; exact where the treated one
   is exchangeable with them. It also has to score above their mean (one-sided 5 %), or the best of twenty equal ones
   would be called special as often as it must be. Otherwise "not specific" where the random ones raise the score
   themselves (the mean over them, one-sided 5 %), else "cannot tell".
4. Where answers have no style, or one only: "effect".
5. "style" where, under both references, the effect within styles (`within_styles`) lies within ±margin and the switch
   of style is above 0, each by its 90 % interval, and styles measured by forcing make up at least half of what the
   treated arm writes.
6. "effect" where the effect within styles is above 0 under both references.
7. "style and possibly more" where the switch is above 0 under both references, else "cannot tell".

`python scripts/court.py verdicts` measures the errors of these rules, beside those of simpler ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import ndarray

from mechsteer.errors import ConfigError, ShapeError
from mechsteer.evaluation.paired import mcnemar_exact, resamples, sign_flip
from mechsteer.evaluation.within_styles import (
    CONFIDENCE,
    Answers,
    WithinStyles,
    unseen_change,
    widened,
    within_styles,
)
from mechsteer.results import Interval, Result

ALPHA = 0.05
MARGIN = 0.03
N_RANDOM = 19  # the fewest with which beating all of them is p <= ALPHA

Kind = Literal["effect", "style", "style and possibly more", "harm", "no effect", "not specific", "cannot tell"]
Open = Literal["", "size", "random directions", "specific", "within styles"]


@dataclass(frozen=True, kw_only=True)
class RandomRank(Result):
    """The treated arm among random directions."""

    n: int
    n_as_good: int
    """of them score at least as well"""
    p_value: float
    """(1 + n_as_good) / (1 + n)"""
    lowest: float
    highest: float
    """scores of the random arms"""
    mean: Interval
    """mean over random arms − base, 90 %"""
    beyond: Interval
    """treated − mean over random arms, 90 %"""


@dataclass(frozen=True, kw_only=True)
class VerdictResult(Result):
    """A verdict and all that it stands on."""

    kind: Kind
    open: Open
    """what could not be told: the "size" of the difference, whether it is "specific" (or there are too few "random
    directions" to say), or what of it lies "within styles"; empty where the verdict is another than "cannot tell" """
    margin: float
    """in units of the score; stated before the run"""
    difference: Interval
    """treated − base, 95 %"""
    equivalence: Interval
    """the same, 90 %"""
    p_value: float
    """two-sided: McNemar's exact test, or the sign flips of problems"""
    random: RandomRank | None
    """None without random arms"""
    within: WithinStyles | None
    """None where answers have no style, or where too few pairs share one"""
    has_styles: bool
    """the answers are of more than one style"""


def judge(
    base: Answers,
    treated: Answers,
    *,
    groups: Sequence[str] | ndarray | None = None,
    randoms: Sequence[ndarray] = (),
    forced: Mapping[str, tuple[Answers, Answers]] | None = None,
    margin: float = MARGIN,
    n_boot: int = 10_000,
    seed: int = 0,
) -> VerdictResult:
    """The verdict on a treated arm, of paired answers [n] to the same items.

    `groups [n]` names the problem of each (default: all different), `randoms` holds the scores [n] of random
    directions, `forced` per style what (base, treated) make of the items when both go on from words of that style.

    Raises ConfigError for a margin that is not positive, ShapeError where arms are not of the same items.
    """
    if not 0 < margin < math.inf:
        raise ConfigError(f"margin={margin}", "give a positive difference that would be too small to matter")
    n = len(base.scores)
    keys = np.arange(n) if groups is None else np.asarray(groups)
    if {len(keys), len(treated.scores), *map(len, randoms)} != {n} or not n:
        raise ShapeError("the arms are not of the same items", "every arm answers all of them, once each, in order")
    clusters = np.unique(keys, return_inverse=True)[1]
    size = np.bincount(clusters)
    drawn, rng = resamples(len(size), n_boot, seed)
    weights = drawn.astype(float)
    sizes = weights @ size

    def draws(values: ndarray) -> ndarray:
        return (weights @ np.bincount(clusters, values)) / sizes

    before = base.scores.astype(float)
    change = treated.scores - before
    total = draws(change)
    if base.scores.dtype == bool and len(size) == n:
        p_value = mcnemar_exact(int((change > 0).sum()), int((change < 0).sum()))
    else:
        p_value = sign_flip(np.bincount(clusters, change), n_boot, rng)
    styles = [arm.styles for arm in (base, treated) if arm.styles is not None]
    has_styles = len(styles) == 2 and len(np.unique(np.concatenate(styles))) > 1
    difference, equivalence = (Interval.from_draws(float(change.mean()), total, c) for c in (0.95, CONFIDENCE))
    equivalence = widened(equivalence, unseen_change(len(size), base.scores))
    rank = _rank(randoms, treated.scores, before, draws) if len(randoms) else None
    within = within_styles(base, treated, clusters, weights, forced=forced) if has_styles else None
    kind, left_open = _rule(margin, difference, equivalence, p_value, rank, within, has_styles=has_styles)
    return VerdictResult(
        kind=kind,
        open=left_open,
        margin=margin,
        difference=difference,
        equivalence=equivalence,
        p_value=p_value,
        random=rank,
        within=within,
        has_styles=has_styles,
    )


def _rank(
    randoms: Sequence[ndarray], treated: ndarray, before: ndarray, draws: Callable[[ndarray], ndarray]
) -> RandomRank:
    scores = np.array([arm.mean() for arm in randoms])
    as_good = int((scores >= treated.mean() - 1e-12).sum())  # sums in another order differ in the last bits
    mean = np.mean(np.stack(list(randoms)), axis=0)
    raised, beyond = mean - before, treated - mean
    return RandomRank(
        n=len(scores),
        n_as_good=as_good,
        p_value=(1 + as_good) / (1 + len(scores)),
        lowest=float(scores.min()),
        highest=float(scores.max()),
        mean=Interval.from_draws(float(raised.mean()), draws(raised), CONFIDENCE),
        beyond=Interval.from_draws(float(beyond.mean()), draws(beyond), CONFIDENCE),
    )


def _rule(
    margin: float,
    difference: Interval,
    equivalence: Interval,
    p_value: float,
    rank: RandomRank | None,
    within: WithinStyles | None,
    *,
    has_styles: bool,
) -> tuple[Kind, Open]:
    """The module's rules, in their order."""
    if math.isnan(difference.value) or p_value >= ALPHA or difference.low <= 0 <= difference.high:
        return ("no effect", "") if _inside(equivalence, margin) else ("cannot tell", "size")
    if difference.high < 0:
        return "harm", ""
    if rank is None or rank.n < N_RANDOM:
        return "cannot tell", "random directions"
    if rank.p_value > ALPHA or rank.beyond.low <= 0:
        return ("not specific", "") if rank.mean.low > 0 else ("cannot tell", "specific")
    if not has_styles:
        return "effect", ""
    if within is None:
        return "cannot tell", "within styles"
    switched = all(part.switch.low > 0 for part in within.parts)
    negligible = all(_inside(part.beyond, margin) for part in within.parts)
    if switched and negligible and within.forced_share >= 0.5:
        return "style", ""
    if all(part.beyond.low > 0 for part in within.parts):
        return "effect", ""
    return ("style and possibly more", "") if switched else ("cannot tell", "within styles")


def _inside(interval: Interval, margin: float) -> bool:
    return -margin < interval.low and interval.high < margin
