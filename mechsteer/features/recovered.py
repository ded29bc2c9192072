"""Loss recovered: how much of what a site does for next-token prediction survives its sparse autoencoder.

    recovered = (L_zeroed − L_spliced) / (L_zeroed − L)

L is the loss of the model as it is, L_spliced that with every activation of the site passed through the SAE (no error
term), L_zeroed that with the site set to zero; each in nats per token, a mean over rows of each row's mean.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mechsteer.bases import as_sae
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


@dataclass(frozen=True, kw_only=True)
class LossesRecovered(Result):
    """Several SAEs of one model: each at its site with the others away, and all spliced into the same forward passes."""

    alone: dict[str, LossRecovered]
    """by site"""
    together: LossRecovered


Splice = Callable[[Tensor], Tensor] | Any


@torch.no_grad()
def loss_recovered(
    model: object,
    site: SiteLike,
    splice: Splice,
    rows: Sequence[str | Sequence[int]],
    *,
    batch_size: int = 16,
) -> LossRecovered:
    """The loss on `rows` (texts, or token ids) as it is, with `splice` at the site, and with zeros there.

    `splice` is an SAE (see `mechsteer.bases.as_sae`), or a function of an activation [batch pos d] that gives what
    replaces it, such as `mechsteer.features.sae.splice_fn(sae, error_term=False)`. Rows run in right-padded batches on the model's device.

    Raises DataError for rows of fewer than two tokens, UnknownSiteError for a site that cannot be written.
    """
    lost = _Losses(model, {site: splice}, rows, batch_size)
    return lost.measured(lost.names, base=lost.run({}))


@torch.no_grad()
def losses_recovered(
    model: object,
    splices: Mapping[Any, Splice],
    rows: Sequence[str | Sequence[int]],
    *,
    batch_size: int = 16,
) -> LossesRecovered:
    """`loss_recovered` of several SAEs, {site: SAE or function}, alone and together; the loss as it is is measured once.

    Together all sites are replaced, and for comparison all are zeroed. Raises what `loss_recovered` does, and DataError
    for none, or for one site named twice.
    """
    lost = _Losses(model, splices, rows, batch_size)
    base = lost.run({})
    alone = {str(site): lost.measured([name], base=base) for site, name in zip(lost.sites, lost.names, strict=True)}
    together = lost.measured(lost.names, base=base) if len(alone) > 1 else next(iter(alone.values()))
    return LossesRecovered(alone=alone, together=together)


class _Losses:
    """The mean loss of rows under edits of some sites."""

    def __init__(
        self, model: object, splices: Mapping[Any, Splice], rows: Sequence[str | Sequence[int]], batch_size: int
    ) -> None:
        ids = tokenize(model, rows)
        if short := [i for i, row in enumerate(ids) if len(row) < 2]:
            raise DataError(f"row {short[0]} has {len(ids[short[0]])} token", "give rows with a token to predict")
        self.model, self.n_rows = model, len(ids)
        self.sites = [as_site(site).at(model) for site in splices]
        self.names = [site.resolve(model, write=True) for site in self.sites]
        if len(set(self.names)) != len(splices) or not splices:
            raise DataError(f"SAEs at {[str(site) for site in self.sites]}", "give at least one site, each once")
        self._edits = dict(zip(self.names, map(_replacing, splices.values()), strict=True))
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        self._batches = make_batches(model, [(row[:1], row[1:]) for row in ids], batch_size, order)

    def measured(self, names: Sequence[str], *, base: float) -> LossRecovered:
        """With the sites `names` spliced, and zeroed."""
        spliced = self.run({name: self._edits[name] for name in names})
        return LossRecovered(
            base=base, spliced=spliced, zeroed=self.run(dict.fromkeys(names, torch.zeros_like)), n_rows=self.n_rows
        )

    def run(self, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> float:
        """In nats per token, all edits in one forward."""
        runner = backend_of(self.model).runner
        with contextlib.ExitStack() as attached:
            for name, edit in edits.items():
                attached.callback(runner.attach(name, edit))
            return sum(_row_losses(self.model, batch) for batch in self._batches) / self.n_rows


def _replacing(splice: Splice) -> Callable[[Tensor], Tensor]:
    """A function of an activation; an SAE may lie on another device."""
    if callable(splice) and not hasattr(splice, "W_dec"):
        return cast("Callable[[Tensor], Tensor]", splice)
    sae, through = as_sae(splice), splice_fn(splice, error_term=False)
    return lambda acts: through(acts.to(sae.device)).to(acts.device)


def _row_losses(model: object, batch: Batch) -> float:
    """Σ over rows of the mean −log P of their tokens."""
    at = batch.predicts_target
    log_p = logits_from(model, batch, Start(), at).log_softmax(-1)
    losses = -log_p.gather(1, batch.tokens.roll(-1, 1)[at][:, None])[:, 0].double()
    row = at.nonzero()[:, 0]
    sums = torch.zeros(len(at), dtype=torch.float64, device=losses.device).index_add_(0, row, losses)
    return float((sums / at.sum(1)).sum())
