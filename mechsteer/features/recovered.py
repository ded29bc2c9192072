"""Loss recovered: how much of what a site does for next-token prediction survives its sparse autoencoder.

    recovered = (L_zeroed − L_spliced) / (L_zeroed − L)

L is the loss of the model as it is, L_spliced that with every activation of the site passed through the SAE (no error
term), L_zeroed that with the site set to zero; each in nats per token, a mean over rows of each row's mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.features.encoding import splice_fn
from mechsteer.models import backend_of, tokenize
from mechsteer.models.sites import SiteLike, as_site
from mechsteer.results import Result
from mechsteer.runtime.batches import Batch, make_batches
from mechsteer.runtime.restart import Start, logits_from


@dataclass(frozen=True, kw_only=True)
class LossRecovered(Result):
    """Losses in nats per token and the share of the site's own that is recovered."""

    base: float
    spliced: float
    zeroed: float
    n_rows: int

    @property
    def recovered(self) -> float:
        """1 for an SAE that changes nothing, 0 for one that is as bad as zeros; nan where zeros do no harm."""
        span = self.zeroed - self.base
        return (self.zeroed - self.spliced) / span if span > 0 else math.nan


@torch.no_grad()
def loss_recovered(
    model: object,
    site: SiteLike,
    splice: Callable[[Tensor], Tensor] | Any,
    rows: Sequence[str | Sequence[int]],
    *,
    batch_size: int = 16,
) -> LossRecovered:
    """The loss on `rows` (texts, or token ids) as it is, with `splice` at the site, and with zeros there.

    `splice` is an SAE (see `mechsteer.bases.as_sae`), or a function of an activation [batch pos d] that gives what
    replaces it, such as `mechsteer.features.sae.splice_fn(sae, error_term=False)`. Rows run in right-padded batches on the model's device.

    Raises DataError for rows of fewer than two tokens, UnknownSiteError for a site that cannot be written.
    """
    is_sae = hasattr(splice, "W_dec") or not callable(splice)
    replace: Any = splice_fn(splice, error_term=False) if is_sae else splice
    ids = tokenize(model, rows)
    if short := [i for i, row in enumerate(ids) if len(row) < 2]:
        raise DataError(f"row {short[0]} has {len(ids[short[0]])} token", "give rows with a token to predict")
    runner, name = backend_of(model).runner, as_site(site).at(model).resolve(model, write=True)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    batches = make_batches(model, [(row[:1], row[1:]) for row in ids], batch_size, order)
    edits: tuple[Callable[[Tensor], Tensor | None], ...] = (lambda _acts: None, replace, torch.zeros_like)
    losses = []
    for edit in edits:
        remove = runner.attach(name, edit)
        try:
            losses.append(sum(_row_losses(model, batch) for batch in batches) / len(ids))
        finally:
            remove()
    base, spliced, zeroed = losses
    return LossRecovered(base=base, spliced=spliced, zeroed=zeroed, n_rows=len(ids))


def _row_losses(model: object, batch: Batch) -> float:
    """Σ over rows of the mean −log P of their tokens."""
    at = batch.predicts_target
    log_p = logits_from(model, batch, Start(), at).log_softmax(-1)
    losses = -log_p.gather(1, batch.tokens.roll(-1, 1)[at][:, None])[:, 0].double()
    row = at.nonzero()[:, 0]
    sums = torch.zeros(len(at), dtype=torch.float64, device=losses.device).index_add_(0, row, losses)
    return float((sums / at.sum(1)).sum())
