"""Separate the two texts of a pair along a fixed direction: more at c = +1, less at c = −1, and stay coherent.

    loss = Σ_c mean over loss layers of loss_c(sep(c)) / 2 + w·coherence + v·monotonicity,   c ∈ {−1, +1}

The terms are those of `mechsteer.training.objectives.contrast`, the directions those of
`mechsteer.directions.separating`, from the unsteered model's differences at the loss layer, frozen. sep is of a batch:
how many pairs share one is `FitConfig.batch_size` / 2. Log-odds of a pair: the mean log-likelihood of a token of the
positive text, less that of the negative one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mechsteer.directions.separating import Separating, separating_directions
from mechsteer.errors import ConfigError, DataError
from mechsteer.models import backend_of
from mechsteer.models.decompositions import decompose
from mechsteer.models.sites import Site
from mechsteer.runtime.batches import Batch, Pair
from mechsteer.steering.interventions import Intervention
from mechsteer.steering.singular import loss_layer
from mechsteer.training.config import FitConfig
from mechsteer.training.objectives.base import Objective, Rows, Terms
from mechsteer.training.objectives.contrast import SeparationLoss, TrustRegion, monotone_hinge
from mechsteer.training.objectives.differences import last_mean, pair_differences, row_ids
from mechsteer.training.objectives.pairs import PairsLike, require_suffix, scored_rows
from mechsteer.training.parts import Parts, Steered, wide

SIDES = {1.0: "plus", -1.0: "minus"}
PER_PAIR = ("own", "thresholded")  # kinds of direction
MEASURES = ("angle", "orthogonality_error", "scale_change")


@dataclass(frozen=True, eq=False, kw_only=True)
class _Base:
    """What the unsteered model says of one batch."""

    seps: Tensor  # [n_layers]
    log_p: Tensor  # [n_scored] of the next token

    def n_bytes(self) -> int:
        return self.seps.nbytes + self.log_p.nbytes


@dataclass(frozen=True, eq=False)
class Separation(Objective):
    """`pairs`, `dev`: ContrastivePairs or (positive, negative) texts that share a suffix of `n_last` tokens or more.

    `loss_layers`: indices or depth ratios (default: `loss_layer`; several: `every_loss_layer`, `correlated_layers`), none
    of them an adapter's. `loss`, `trust`,
    `direction`: see their classes. `monotone_margin`: what each step of c is to add to the log-odds.

    Raises ConfigError for weights below 0, a loss layer that is not above every adapter, DataError for too few pairs, and for a pair whose texts share no token at their end.
    """

    pairs: PairsLike
    _: KW_ONLY
    dev: PairsLike = ()
    loss_layers: Sequence[int | float] | None = None
    n_last: int = 6
    loss: SeparationLoss = field(default_factory=SeparationLoss)
    trust: TrustRegion = field(default_factory=TrustRegion)
    direction: Separating = field(default_factory=Separating)
    coherence_weight: float = 1.0
    monotonicity_weight: float = 1.0
    monotone_margin: float = 0.0
    _sites: tuple[Site, ...] = field(default=(), repr=False)
    _directions: Mapping[tuple[int, ...], Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.n_last < 1 or min(self.coherence_weight, self.monotonicity_weight) < 0:
            raise ConfigError(
                f"n_last is {self.n_last}, the weights {self.coherence_weight} and {self.monotonicity_weight}",
                "at least one token, and weights of 0 or more",
            )

    @property
    def weights(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        counted = {
            "separation_loss": 1.0,
            "coherence": self.coherence_weight,
            "monotonicity": self.monotonicity_weight,
        }
        told = [
            f"{what} {side} {site.layer}" for what in ("sep", "loss") for side in SIDES.values() for site in self._sites
        ]
        return counted | dict.fromkeys([*told, *(f"coherence {side}" for side in SIDES.values()), *MEASURES], 0.0)

    def identity(self) -> dict[str, Any]:
        more = {name: asdict(getattr(self, name)) for name in ("loss", "trust", "direction")}
        plain = {
            "n_last": self.n_last,
            "monotone_margin": self.monotone_margin,
            "loss_layers": [s.layer for s in self._sites],
        }
        return {**super().identity(), **more, **plain}

    def prepared(self, model: Any, config: FitConfig) -> Separation:
        n_layers = model.cfg.n_layers
        layers = [loss_layer(n_layers)] if self.loss_layers is None else self.loss_layers
        sites = tuple(sorted({Site(layer).at(model) for layer in layers}, key=lambda site: site.order))
        if not sites:
            raise ConfigError("there is no loss layer", "name one, or None for the default")
        is_own = self.direction.kind in PER_PAIR
        found: dict[tuple[int, ...], Tensor] = {}
        for pairs in (self.pairs, self.dev):
            require_suffix(scored_rows(model, pairs) if len(pairs) else [], self.n_last)
        for pairs in (self.pairs, self.dev) if is_own else (self.pairs,):  # a common one is the training pairs'
            if not len(pairs):
                continue
            rows = scored_rows(model, pairs)
            each = torch.stack([self._found(model, rows, site, config.batch_size) for site in sites], 1)
            keys = [(*row_ids(rows[i]), *row_ids(rows[i + 1])) if is_own else () for i in range(0, len(rows), 2)]
            found |= dict(zip(keys, each.to(backend_of(model).device), strict=True))
        return replace(self, _sites=sites, _directions=found)

    def rows(self, model: Any) -> Rows:
        if not len(self.pairs):
            raise DataError("there are no pairs", "pass at least one pair of texts")
        train, dev = (scored_rows(model, pairs) if len(pairs) else [] for pairs in (self.pairs, self.dev))
        return Rows(train=train, dev=dev, train_groups=[2] * (len(train) // 2), dev_groups=[2] * (len(dev) // 2))

    def reads(self, model: Any) -> tuple[Site, ...]:  # noqa: ARG002
        return self._sites

    def parts(self, model: Any, interventions: Sequence[Intervention], config: FitConfig) -> Parts:
        for iv in interventions:
            if int(iv.site.at(model).layer) >= int(self._sites[0].layer):
                raise ConfigError(
                    f"the loss is measured at layer {self._sites[0].layer}, and an adapter stands at {iv.site.at(model)}",
                    "adapters belong below every loss layer (mechsteer.steering.adapter_layers)",
                )
        return super().parts(model, interventions, config)

    def terms(self, steered: Steered) -> Terms:
        base = steered.kept("base", lambda: self._base(steered))
        total: dict[str, tuple[Tensor | float, int]] = {}
        losses, costs, odds = [], [], {}
        for c, side in SIDES.items():
            run = steered if c > 0 else steered.again(c)
            seps, log_p = self._seps(run), _log_p(run)
            of_layers = self.loss(seps, base.seps, c)
            losses.append(of_layers)
            for site, sep, loss in zip(self._sites, seps, of_layers, strict=True):
                total |= {
                    f"sep {side} {site.layer}": (sep.detach(), 1),
                    f"loss {side} {site.layer}": (loss.detach(), 1),
                }
            cost = self.trust(log_p, base.log_p)
            costs.append(cost)
            total[f"coherence {side}"] = (cost.sum().detach(), len(cost))
            odds[side] = _odds(steered, log_p)
        hinge = monotone_hinge(odds["minus"], _odds(steered, base.log_p), odds["plus"], self.monotone_margin)
        both, cost = torch.cat(losses), torch.cat(costs)
        counted = {
            "separation_loss": (both.sum(), len(both)),
            "coherence": (cost.sum(), len(cost)),
            "monotonicity": (hinge.sum(), len(hinge)),
        }
        return counted | total | _measures(steered)

    def _found(self, model: Any, rows: Sequence[Pair], site: Site, batch_size: int) -> Tensor:
        """[n_pairs d_model] at one loss layer."""
        how, basis = self.direction, None
        if how.measure is not None:
            weight = backend_of(model).weights.map_weight(int(site.layer), how.measure)
            basis = decompose(weight, min(how.measure_rank, *weight.shape)).u.T.cpu()
        (differences,) = pair_differences(model, rows, [site], self.n_last, batch_size)
        return separating_directions(differences, how, basis)

    @torch.no_grad()
    def _base(self, steered: Steered) -> _Base:
        run = steered.again(0.0)
        return _Base(seps=self._seps(run), log_p=_log_p(run))

    def _seps(self, run: Steered) -> Tensor:
        """[n_layers] sep of a batch."""
        batch = run.part.batch
        directions = run.kept("directions", lambda: self._of_batch(batch))  # [n_pairs n_layers d_model]
        found = []
        for number, site in enumerate(self._sites):
            pooled = last_mean(wide(run.acts[site]), batch.is_target, self.n_last)
            found.append(((pooled[::2] - pooled[1::2]) * directions[:, number].to(pooled)).sum(-1).mean())
        return torch.stack(found)

    def _of_batch(self, batch: Batch) -> Tensor:
        if () in self._directions:
            return self._directions[()].expand(len(batch.rows) // 2, -1, -1)
        texts = [tokens[mask].tolist() for tokens, mask in zip(batch.tokens, batch.mask, strict=True)]
        keys = [(*positive, *negative) for positive, negative in zip(texts[::2], texts[1::2], strict=True)]
        return torch.stack([self._directions[key] for key in keys])


def _log_p(run: Steered) -> Tensor:
    """[n_scored] log-likelihood of each next token."""
    at = run.part.batch.predicts_target
    return run.log_probs(at).gather(1, run.part.batch.next_tokens[at][:, None])[:, 0]


def _odds(steered: Steered, log_p: Tensor) -> Tensor:
    """[n_pairs] mean log-likelihood of the positive text's tokens, less the negative one's."""
    at = steered.part.batch.predicts_target
    totals = log_p.new_zeros(len(at)).index_add(0, at.nonzero()[:, 0], log_p)
    means = totals / at.sum(1)
    return means[::2] - means[1::2]


def _measures(steered: Steered) -> dict[str, tuple[float, int]]:
    """The largest of each figure over the adapters that have it."""
    found = [iv.adapter.measures() for iv in steered.part.interventions]
    return {name: (max(values), 1) for name in MEASURES if (values := [one[name] for one in found if name in one])}
