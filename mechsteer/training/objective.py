"""What `fit` minimises: the loss of batches under a steering, restarted from what no step changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechsteer.models import tokenize
from mechsteer.runtime.batches import Batch, Sample, encode_samples, make_batches
from mechsteer.runtime.reach import n_untouched_blocks, n_untouched_columns
from mechsteer.runtime.restart import Kept, Start, logits_from, start_from
from mechsteer.runtime.scopes import TokenScope
from mechsteer.runtime.session import open_sessions
from mechsteer.shapes import Mask
from mechsteer.steering.divergence import kl_divergence
from mechsteer.steering.interventions import Intervention, replace_intervention, steer
from mechsteer.training.losses import Tally, left_alone, square_norms


@dataclass(frozen=True, eq=False)
class Part:
    """A batch, what steers it, and which of its positions are scored."""

    batch: Batch
    interventions: tuple[Intervention, ...]
    targets: Mask  # positions whose next token is a target
    alone: Mask  # positions that are to predict as without steering
    n_skipped: int
    n_prefix: int


class Objective:
    """Losses over the batches of a training set, a dev set and neutral texts.

    Which rows share a batch is drawn from `seed` once, so that what a batch starts from can be kept.
    """

    def __init__(
        self,
        model: Any,
        interventions: Sequence[Intervention],
        samples: Sequence[Sample],
        dev: Sequence[Sample],
        neutral: Sequence[str | Sequence[int]],
        *,
        batch_size: int,
        seed: int,
        restart: bool,
        recompute_blocks: bool,
        cache_bytes: int,
    ) -> None:
        self.model, self.restart = model, restart
        pairs = encode_samples(model, samples)
        dev_pairs = encode_samples(model, dev) if dev else []
        texts: list[tuple[list[int], list[int]]] = [(t, []) for t in tokenize(model, neutral)] if neutral else []
        self.hash = hashlib.sha256(json.dumps([pairs, dev_pairs, texts]).encode()).hexdigest()[:16]
        mixed = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
        everywhere = [replace_intervention(iv, scope=TokenScope.all()) for iv in interventions]
        below = n_untouched_blocks(model, interventions) if restart else 0
        keep_prefix = restart and not recompute_blocks
        own = [*interventions, *(iv for session in open_sessions(model) for iv in session.interventions)]
        used = {site.at(model).layer for iv in own for site in (iv.site, iv.read) if site is not None}
        # A recomputed block would run its hooks twice, and an adapter's state would see the same tokens twice.
        self.recompute = [i for i in range(below, model.cfg.n_layers) if i not in used] if recompute_blocks else []

        def parts(pairs: list, interventions: Sequence[Intervention], order: list[int] | None = None) -> list[Part]:
            batches = make_batches(model, pairs, batch_size, order)
            return [_part(model, batch, interventions, below, keep_prefix=keep_prefix) for batch in batches]

        self.train, self.dev = parts(pairs, interventions, mixed), parts(dev_pairs, interventions)
        self.neutral = parts(texts, everywhere)
        self._kept = Kept(cache_bytes)

    def __call__(self, part: Part) -> Tally:
        """The loss terms of one part, steered; with gradients unless the caller switched them off."""
        start = self._start(part)
        with steer(self.model, part.interventions, record=True) as session:
            logits = self._logits(part, start, part.targets | part.alone, recompute=self.recompute)
        log_q = logits.float().log_softmax(-1)
        is_target, is_alone = part.targets[part.targets | part.alone], part.alone[part.targets | part.alone]
        targets = part.batch.tokens.roll(-1, 1)[part.targets]
        picked = log_q[is_target].gather(1, targets[:, None])
        total, count = square_norms(session)
        tally = Tally(-picked.sum(), len(picked), picked.new_zeros(()), 0, total, count)
        if bool(is_alone.any()):
            kl = kl_divergence(self._frozen(part, start), log_q[is_alone])
            tally += Tally(0.0, 0, kl.sum(), len(kl), 0.0, 0)
        return tally

    def _start(self, part: Part) -> Start:
        if part.n_skipped == part.n_prefix == 0:
            return Start()
        return self._kept.get(
            ("start", id(part)),
            lambda: start_from(self.model, part.batch, part.n_skipped, part.n_prefix),
            lambda start: start.n_bytes(self.model),
        )

    def _frozen(self, part: Part, start: Start) -> Tensor:
        """Log-probs without the steering where the part is to be left alone."""

        def compute() -> Tensor:
            with torch.no_grad():
                return self._logits(part, start, part.alone).float().log_softmax(-1)

        return self._kept.get(("frozen", id(part)), compute, lambda logits: logits.untyped_storage().nbytes())

    def _logits(self, part: Part, start: Start, at: Mask, recompute: Sequence[int] = ()) -> Tensor:
        return logits_from(self.model, part.batch, start, at, recompute=recompute, all_positions=not self.restart)


def _part(
    model: Any, batch: Batch, interventions: Sequence[Intervention], n_skipped: int, *, keep_prefix: bool
) -> Part:
    targets, alone = batch.predicts_target, left_alone(interventions, batch)
    n_prefix = 0
    if keep_prefix:
        first_scored = int((targets | alone).any(0).long().argmax())
        n_prefix = min(first_scored, n_untouched_columns(model, interventions, batch))
    return Part(batch, tuple(interventions), targets, alone, n_skipped, n_prefix)
