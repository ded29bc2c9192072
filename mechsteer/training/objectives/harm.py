"""Do no harm: what an objective adds so that the steered model stays as it was where it is not asked to change.

    λ·KL(frozen || steered) on what is to be left alone + μ·mean‖delta‖²

"Left alone" are positions the scope touches, or that come after one, and that neither are target tokens nor
predict one; and every position of neutral text, steered with scope `all`. On prompt tokens before the scope
the KL is identically zero and is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, DataError
from mechsteer.models import tokenize
from mechsteer.runtime.batches import Batch, Pair, Sample, encode_samples
from mechsteer.runtime.reach import touched
from mechsteer.runtime.session import Session
from mechsteer.shapes import Mask
from mechsteer.steering.divergence import kl_divergence
from mechsteer.steering.interventions import Intervention
from mechsteer.training.objectives.base import Objective, Rows, Terms
from mechsteer.training.parts import Steered, wide

SampleLike = Sample | tuple[str | Sequence[int], str | Sequence[int]]


class Harmless(Objective):
    """Base of objectives that leave alone what they are not about: adds the terms kl and square_norm.

    Subclasses are dataclasses with these fields.
    """

    neutral: Sequence[str | Sequence[int]]
    kl_weight: float
    l2_weight: float

    def check_weights(self) -> None:
        """Raise ConfigError unless both weights are finite and not negative."""
        for name in ("kl_weight", "l2_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} is {getattr(self, name)}", "pass a finite number, 0 or more")

    def neutral_rows(self, model: Any) -> list[Pair]:
        """The neutral texts as token ids."""
        return [(ids, []) for ids in tokenize(model, self.neutral)] if self.neutral else []

    def scored(self, batch: Batch, interventions: Sequence[Intervention]) -> Mask:
        return batch.predicts_target | left_alone(interventions, batch)

    def harm(self, steered: Steered, *, targets: bool = False) -> Terms:
        """kl and square_norm of a batch; with `targets` the KL counts what predicts a target token, too."""
        where = steered.part.scored
        if not targets:
            where = where & ~steered.part.batch.predicts_target
        terms: dict[str, tuple[Tensor | float, int]] = {}
        if bool(where.any()):
            kl = kl_divergence(steered.frozen(where), steered.log_probs(where))
            terms["kl"] = steered.term("kl", kl, where.nonzero()[:, 0])
        sums, counts = steered.by_row["square_norm"] = square_norms(steered.session)
        return terms | {"square_norm": (sums.sum(), int(counts.sum()))}


class OnSamples(Harmless):
    """Base of such objectives on samples: prompts with targets. Subclasses are dataclasses with these fields too."""

    samples: Sequence[SampleLike]
    dev: Sequence[SampleLike]

    def rows(self, model: Any) -> Rows:
        dev = encode_samples(model, as_samples(self.dev)) if self.dev else []
        train = encode_samples(model, as_samples(self.samples))
        return Rows(train=train, dev=dev, neutral=self.neutral_rows(model))


def as_samples(items: Sequence[SampleLike]) -> list[Sample]:
    """Samples as they are, (prompt, target) pairs as samples. Raises DataError for anything else."""
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise DataError(f"samples are {items!r:.80}", "pass a list of Sample(prompt, target), or of pairs of the two")
    samples = []
    for i, item in enumerate(items):
        if isinstance(item, Sample):
            samples.append(item)
        elif isinstance(item, (tuple, list)) and len(item) == 2:  # a prompt and a target
            samples.append(Sample(*item))
        else:
            raise DataError(
                f"item {i} is no sample: {item!r}"[:200], "pass Sample(prompt, target), or a pair of the two"
            )
    return samples


def left_alone(interventions: Sequence[Intervention], batch: Batch) -> Mask:
    """Positions [batch pos] of a batch where the steered model is to predict as the frozen one does."""
    reached = touched(interventions, batch.context()).long().cumsum(1) > 0
    return reached & batch.mask & ~batch.is_target & ~batch.predicts_target


def square_norms(session: Session) -> tuple[Tensor, Tensor]:
    """(Σ‖delta‖², how many) [batch] over touched positions and interventions of the last recorded forward."""
    assert session.recorded is not None
    ctx = session.contexts[-1]
    totals = torch.zeros(len(ctx.mask), device=session.backend.device)
    n = ctx.mask.new_zeros(len(ctx.mask), dtype=torch.long)
    for iv, deltas in zip(session.interventions, session.recorded, strict=True):
        here = iv.scope.touched(ctx)
        n = n + (here if isinstance(here, Tensor) else ctx.mask * here).sum(1)
        totals = totals + wide(deltas[-1]).pow(2).flatten(1).sum(1).to(totals.device)
    return totals, n
