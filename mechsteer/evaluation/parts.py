"""Whether the directions that an attribution names carry what a steering is for: its score on held-out items.

An attribution is measured on the log-probability of given texts; a verdict is about what the model writes. So the
steering runs once more with its deltas on the named directions alone, and once without them, beside the directions
that the same procedure selects in meaningless bases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from mechsteer.attribution.parts import What, part_of
from mechsteer.errors import DataError, ShapeError
from mechsteer.evaluation.arms import Arm
from mechsteer.evaluation.scoring import Keep, Scored, Scoring, at_once
from mechsteer.models.sites import SiteLike
from mechsteer.results import Interval, Result, cluster_weights
from mechsteer.runtime.threads import each_of, side_by_side
from mechsteer.steering.interventions import Interventions
from mechsteer.steering.shared_prompts import leave_prompts_alone, sharing_prompts
from mechsteer.tasks import Item


@dataclass(frozen=True, kw_only=True)
class PartScore(Result):
    """A part of a steering on held-out items, against base and against the same part in meaningless bases."""

    what: What
    difference: Interval
    """score of the part − base; resamples items"""
    null: Interval
    """the mean of the same over meaningless bases, lowest and highest of them"""
    beyond_null: Interval
    """this part − the mean null; resamples items and nulls"""


@dataclass(frozen=True, kw_only=True)
class PartsOutcome(Result):
    """What the first `k` directions of a basis do to the score that the verdict is about."""

    k: int
    metric: str
    n_items: int
    n_nulls: int
    whole: Interval
    """the whole steering − base"""
    kept: PartScore
    removed: PartScore

    @property
    def says_more_than_noise(self) -> bool | None:
        """Kept alone they give more than the null's, or removed they leave less of it (for a steering that lowers
        the score, the other way round); None where the whole steering does nothing."""
        if self.whole.low <= 0 <= self.whole.high:
            return None
        sign = 1 if self.whole.value > 0 else -1
        kept, left = self.kept.beyond_null, self.removed.beyond_null
        return (kept.low if sign > 0 else -kept.high) > 0 or (-left.high if sign > 0 else left.low) > 0


def evaluate_parts(
    model: Any,
    steering: Interventions,
    spans: Float[Tensor, "k d"],
    null_spans: Float[Tensor, "n_nulls k d"] | Sequence[Tensor],
    scoring: Scoring,
    items: Sequence[Item],
    *,
    site: SiteLike,
    base: Scored,
    treated: Scored,
    name: str = "directions",
    k: int | None = None,
    keep: Keep = at_once,
    n_boot: int = 2000,
    seed: int = 0,
    progress: bool = False,
) -> PartsOutcome:
    """Run the kept part and the rest of a steering on `items`, with those of every null.

    `spans`, `null_spans`: orthonormal rows, the first j of which span the first j directions selected, as
    `EffectAttribution` has them; the first `k` are used. `base`, `treated`: the two arms on the same items. Pieces are
    kept under names that begin with `name`. Raises DataError without nulls, ShapeError for arms of other items.
    """
    size = len(spans) if k is None else k
    if not len(null_spans):
        raise DataError(
            "there are no meaningless bases to compare with", "attribute the effect with nulls_run of 1 or more"
        )
    if not len(base.scores) == len(treated.scores) == len(items) * (len(base.scores) // max(1, len(items))):
        raise ShapeError(
            f"{len(base.scores)} and {len(treated.scores)} scores of {len(items)} items", "score the same items"
        )

    def score(axes: Tensor, what: What, label: str) -> ndarray:
        part = part_of(model, steering, axes[:size], what, site=site)
        arm = Arm(name=f"{name}, {size} {what}{label}", steering=part)
        return scoring.score(model, arm, items, keep=keep, progress=progress).scores.astype(float)

    groups = np.unique(np.array(base.groups), return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    weights = cluster_weights(int(groups.max()) + 1, n_boot, rng)[:, groups]
    weights = weights / weights.sum(1, keepdims=True)
    of_nulls = cluster_weights(len(null_spans), n_boot, rng) / len(null_spans)
    before = base.scores.astype(float)

    def against(what: What) -> PartScore:
        tried = [(spans, ""), *((axes, f", null {i}") for i, axes in enumerate(null_spans))]
        own, *of_null = each_of(lambda each: score(each[0], what, each[1]) - before, tried)
        nulls = np.stack(of_null)
        by_null = nulls.mean(1)
        return PartScore(
            what=what,
            difference=Interval.from_draws(own.mean(), weights @ own),
            null=Interval(value=float(by_null.mean()), low=float(by_null.min()), high=float(by_null.max())),
            beyond_null=Interval.from_draws(
                own.mean() - by_null.mean(), weights @ own - ((weights @ nulls.T) * of_nulls).sum(1)
            ),
        )

    gain = treated.scores.astype(float) - before
    with side_by_side(model), sharing_prompts() if leave_prompts_alone(steering) else contextlib.nullcontext():
        kept, removed = against("kept"), against("removed")
    return PartsOutcome(
        k=size,
        metric=scoring.metric,
        n_items=len(items),
        n_nulls=len(null_spans),
        whole=Interval.from_draws(gain.mean(), weights @ gain),
        kept=kept,
        removed=removed,
    )
