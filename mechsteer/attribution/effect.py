"""Which directions of a delta carry its effect on a metric, and whether that holds when the model is really run.

share of direction i = Σ_t c_ti ⟨∂metric/∂delta_t, d_i⟩ / total effect, with delta_t = Σ_i c_ti d_i + residual_t:
gradient x delta, at the base run, or averaged along the straight line to the steered run (integrated gradients,
Sundararajan et al. 2017, arXiv 1703.01365: then shares and residual add up to the effect).

A gradient is a claim. The check runs the model with the delta of every token projected on the span of the top k
directions (sufficiency) and with that projection taken out (necessity), beside k random directions of the basis
and one random direction of the kept part's norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.attribution.decompose import code
from mechsteer.attribution.metrics import Metric, MetricFunction, as_metric
from mechsteer.attribution.replay import Runner, prepare
from mechsteer.bases import Basis
from mechsteer.errors import ConfigError, DataError, ShapeError
from mechsteer.models.sites import Site
from mechsteer.results import Interval, Result, cluster_weights, live, plain
from mechsteer.steering.interventions import Interventions

_MEASURED = ("sufficiency", "necessity")
_CONTROLS = ("random_sufficiency", "random_necessity", "matched_norm_random")


@dataclass(frozen=True, kw_only=True)
class EffectSettings(Result):
    """How an effect was attributed and checked."""

    k: tuple[int, ...]
    n_random: int
    integrated: int
    """steps of integrated gradients; 0: the gradient at the base run"""
    atoms: int
    """of matching pursuit a token, in an overcomplete basis"""
    seed: int
    n_bootstrap: int
    held: tuple[Site, ...]
    """sites of the same steering that stay on in every run"""


@dataclass(frozen=True, kw_only=True)
class EffectAttribution(Result):
    """Effects are means over prompts of metric(steered) − metric(base), in the metric's units.

    `interval`: percentile bootstrap over prompts. `contributions` [n_dirs]: gradient x delta; `shares`
    [n_dirs] = contributions / total; `coefficients` [n_dirs]: of the delta itself, means over touched tokens. `linear`: the whole of gradient x delta, residual included, in units of the
    metric; `residual_contribution`: that of what the directions leave of the delta. `order`: directions by falling share;
    the check keeps and removes the first k.

    `check`: one row per k. `sufficiency` = effect of the kept part / total, `necessity` = 1 − effect of the rest /
    total, both with bootstrap intervals over prompts (_low, _high), and `energy`, the share of Σ‖delta‖² kept. The
    controls are means over `n_random` draws with their 95 % range: the same for k random directions
    (`random_sufficiency`, `random_necessity`, `random_energy`), and `matched_norm_random`, the effect / total of one
    random direction that has the kept part's norm at every token.

    `nothing_to_attribute`: the interval holds 0; then shares and the check are nan and `reason` says why.
    `labels` and `source` are those of the basis, which itself stays in the process that computed this.
    """

    site: Site
    labels: tuple[str, ...]
    source: Mapping[str, Any]
    total: float
    interval: tuple[float, float]
    base: Float[Tensor, " n_prompts"]
    steered: Float[Tensor, " n_prompts"]
    contributions: Float[Tensor, " n_dirs"]
    shares: Float[Tensor, " n_dirs"]
    coefficients: Float[Tensor, " n_dirs"]
    residual_contribution: float
    linear: float
    order: Tensor
    check: pd.DataFrame
    nothing_to_attribute: bool
    reason: str
    settings: EffectSettings
    basis: Basis | None = live()

    @property
    def residual_share(self) -> float:
        """residual_contribution / total; nan where there is nothing to attribute."""
        return math.nan if self.nothing_to_attribute else self.residual_contribution / self.total

    def frame(self) -> pd.DataFrame:
        """label, coefficient, contribution, share of every direction; largest share first."""
        columns = {name: getattr(self, f"{name}s").numpy() for name in ("coefficient", "contribution", "share")}
        table = pd.DataFrame({"label": self.labels, **columns})
        return table.iloc[self.order.numpy()].reset_index(names="direction")

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k rows of `frame` with the largest shares."""
        return self.frame().head(k)

    def summary(self, k: int = 50) -> dict[str, Any]:
        """The k largest shares and the whole check, for reading only."""
        return plain(
            {
                "site": str(self.site),
                "source": self.source,
                "n_prompts": len(self.base),
                "total": self.total,
                "interval": self.interval,
                "base": float(self.base.mean()),
                "steered": float(self.steered.mean()),
                "linear": self.linear,
                "residual_share": self.residual_share,
                "nothing_to_attribute": self.nothing_to_attribute,
                "reason": self.reason,
                "directions": self.top(k).to_dict("records"),
                "check": self.check.to_dict("records"),
                "settings": self.settings,
            }
        )


def attribute_effect(
    model: Any,
    iv: Interventions,
    prompts: Sequence[str | Sequence[int]],
    basis: Basis,
    metric: Metric | MetricFunction,
    *,
    k: Sequence[int] = (1, 4, 16),
    n_random: int = 20,
    integrated: int = 0,
    seed: int = 0,
    n_bootstrap: int = 1000,
    site: Site | None = None,
    continuations: Sequence[str | Sequence[int]] | None = None,
    atoms: int = 32,
    batch_size: int = 32,
    progress: bool = False,
) -> EffectAttribution:
    """Attribute the effect of `iv` on `metric` to the directions of `basis`, and check it by running the model.

    `metric`: `metrics.log_odds(...)`, `metrics.target_logprob(...)`, or a function (logits [batch pos d_vocab], tokens,
    mask) -> [batch], differentiable in the logits. Rows are the prompts with their `continuations` (strings without
    BOS, or ids), or with the metric's own; positions from the prompt's length on count as generated.

    Deltas are replayed as recorded, token by token, so any adapter and scope is served. An overcomplete basis is
    coded by matching pursuit with `atoms` directions a token; directions are taken in the activations' own space, also
    those that maps read behind a norm. Of a Steering over several sites `site` names the one of the basis: the others
    stay on in every run, the base run too, so the effect is that of this site given the others. `integrated`: steps of
    integrated gradients, 0 for the gradient at the base run. Everything is a function of `seed`.

    Raises ConfigError, ShapeError (basis of another length, metric of the wrong shape), NonFiniteError, DataError
    (fewer than two prompts: no interval; no touched token), and what `steer` raises.
    """
    sizes = [k] if isinstance(k, int) else list(k)
    if not sizes or min(sizes) < 1 or n_random < 1 or integrated < 0 or n_bootstrap < 1 or atoms < 1:
        raise ConfigError(
            f"k={sizes}, n_random={n_random}, integrated={integrated}, n_bootstrap={n_bootstrap}, atoms={atoms}",
            "integrated may be 0, all others are positive",
        )
    if len(prompts) < 2:
        raise DataError(f"{len(prompts)} prompt(s) give no interval", "pass more prompts")
    runner = prepare(model, iv, prompts, continuations, as_metric(metric), site, batch_size)
    _require_fit(runner, basis)
    base, steered = runner.gather("base"), runner.gather("steered")
    effect = (steered - base).numpy()
    draws = cluster_weights(len(effect), n_bootstrap, np.random.default_rng(seed)) / len(effect)
    total = Interval.from_draws(effect.mean(), draws @ effect)
    nothing = total.low <= 0 <= total.high
    reason = (
        f"the total effect {total.value:.4g} has the interval [{total.low:.4g}, {total.high:.4g}], which holds 0"
        if nothing
        else ""
    )
    contributions, coefficients, linear, rest = _gradient_times_delta(runner, basis, integrated, atoms)
    shares = torch.full_like(contributions, math.nan) if nothing else contributions / total.value
    order = torch.argsort(contributions * math.copysign(1, total.value), descending=True, stable=True)
    sizes = sorted({min(size, len(basis)) for size in sizes})
    check = pd.DataFrame([{"k": size} for size in sizes], columns=_columns())
    if not nothing:
        arms = _Arms(runner, basis, base.numpy(), effect, draws)
        generator = torch.Generator().manual_seed(seed)
        with tqdm(total=len(sizes) * (2 + 3 * n_random), desc="check", disable=not progress, leave=False) as bar:
            check = pd.DataFrame(
                [arms.row(order, size, n_random, generator, bar) for size in sizes], columns=_columns()
            )
    return EffectAttribution(
        site=runner.site,
        labels=basis.labels,
        source=basis.source,
        total=total.value,
        interval=(total.low, total.high),
        base=base,
        steered=steered,
        contributions=contributions,
        shares=shares,
        coefficients=coefficients,
        residual_contribution=rest,
        linear=linear,
        order=order,
        check=check.astype(dict.fromkeys(_columns()[1:], float)),
        nothing_to_attribute=nothing,
        reason=reason,
        settings=EffectSettings(
            k=tuple(sizes),
            n_random=n_random,
            integrated=integrated,
            atoms=atoms,
            seed=seed,
            n_bootstrap=n_bootstrap,
            held=tuple(other.site for other in runner.others),
        ),
        basis=basis,
    )


def _require_fit(runner: Runner, basis: Basis) -> None:
    width = runner.batches[0].delta.shape[-1]
    if width != basis.d_model:
        raise ShapeError(
            f"the deltas at {runner.site} have {width} dimensions, the directions {basis.d_model}",
            "take a basis of the activations at this site",
        )
    if not any(bool(each.touched.any()) for each in runner.batches):
        raise DataError(
            f"the intervention at {runner.site} touches no token of these prompts",
            "its scope lies in the text to come? Pass continuations",
        )


def _gradient_times_delta(
    runner: Runner, basis: Basis, integrated: int, atoms: int
) -> tuple[Tensor, Tensor, float, float]:
    """(contribution per direction, its coefficient, contribution of the whole delta, of what the directions leave).

    Contributions are means over prompts, coefficients over touched tokens.
    """
    points = [(step + 0.5) / integrated for step in range(integrated)] or [0.0]
    rows, gradients = [], []
    for each in runner.batches:
        gradient = torch.zeros_like(each.delta)
        for point in points:
            leaf = (point * each.delta).requires_grad_()
            with torch.enable_grad():
                value = runner.score(each, leaf).sum()
                if not value.requires_grad:
                    raise ConfigError("the metric does not depend on the logits differentiably", "avoid argmax, counts")
                (slope,) = torch.autograd.grad(value, leaf)
            gradient += slope / len(points)
        rows.append(each.delta[each.touched].cpu())
        gradients.append(gradient[each.touched].double().cpu())
    codes, distinct, code_of = code(torch.cat(rows), basis, atoms)
    n_prompts = sum(len(each.base) for each in runner.batches)
    # tokens with equal deltas have equal coefficients: their gradients add up
    summed = torch.zeros(len(distinct), basis.d_model, dtype=torch.float64)
    summed.index_add_(0, code_of, torch.cat(gradients))
    (row, column), value = codes.indices(), codes.values()
    directions = basis.directions.double()
    contributions = torch.zeros(len(basis), dtype=torch.float64)
    for part in torch.arange(len(value)).split(2**22 // basis.d_model + 1):
        slopes = (summed[row[part]] * directions[column[part]]).sum(1)
        contributions.index_add_(0, column[part], value[part] * slopes)
    coefficients = torch.zeros_like(contributions)
    coefficients.index_add_(0, column, value * code_of.bincount(minlength=len(distinct))[row] / len(code_of))
    residuals = distinct.double() - torch.sparse.mm(codes, directions)
    linear, rest = (float((summed * part).sum()) / n_prompts for part in (distinct.double(), residuals))
    return contributions / n_prompts, coefficients, linear, rest


@dataclass(frozen=True, eq=False)
class _Arms:
    """Runs with edited deltas, as shares of the total effect."""

    runner: Runner
    basis: Basis
    base: np.ndarray
    effect: np.ndarray  # of the whole delta on each prompt
    draws: np.ndarray  # [n_bootstrap n_prompts] weights of bootstrap resamples

    def row(self, order: Tensor, size: int, n_random: int, generator: torch.Generator, bar: tqdm) -> dict[str, Any]:
        """One row of the check: the first `size` directions of `order` against their controls."""
        kept = self._project(order[:size])
        found: dict[str, Any] = {"k": size, "energy": self._energy(kept)}
        effects = {"sufficiency": self._effect(kept), "necessity": self._effect(self._rest(kept))}
        for name, effect in effects.items():
            share, resampled = effect.mean() / self.effect.mean(), (self.draws @ effect) / (self.draws @ self.effect)
            if name == "necessity":
                share, resampled = 1 - share, 1 - resampled
            interval = Interval.from_draws(share, resampled)
            found |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        bar.update(2)
        alive = self.basis.directions.norm(dim=1).nonzero()[:, 0]
        controls: dict[str, list[float]] = {name: [] for name in (*_CONTROLS, "random_energy")}
        for _ in range(n_random):
            chosen = alive[torch.randperm(len(alive), generator=generator)[:size]]
            random = self._project(chosen)
            controls["random_energy"].append(self._energy(random))
            controls["random_sufficiency"].append(self._share(random))
            controls["random_necessity"].append(1 - self._share(self._rest(random)))
            direction = torch.randn(self.basis.d_model, generator=generator, dtype=torch.float64)
            direction /= direction.norm()
            pushed = [part.norm(dim=-1, keepdim=True) * direction.to(part) for part in kept]
            controls["matched_norm_random"].append(self._share(pushed))
            bar.update(3)
        found["random_energy"] = float(np.mean(controls["random_energy"]))
        for name in _CONTROLS:
            spread = Interval.from_draws(float(np.mean(controls[name])), np.asarray(controls[name]))
            found |= {name: spread.value, f"{name}_low": spread.low, f"{name}_high": spread.high}
        return found

    @property
    def _deltas(self) -> list[Tensor]:
        return [each.delta for each in self.runner.batches]

    def _project(self, chosen: Tensor) -> list[Tensor]:
        """Every token's delta on the span of these directions."""
        span = self.basis.directions[chosen].double()
        _, s, vh = torch.linalg.svd(span, full_matrices=False)  # rows may be dependent, or zero
        axes = vh[s > 1e-6 * s.max().clamp(min=1e-12)]
        return [((d.double() @ axes.T.to(d.device)) @ axes.to(d.device)).to(d.dtype) for d in self._deltas]

    def _rest(self, kept: list[Tensor]) -> list[Tensor]:
        return [whole - part for whole, part in zip(self._deltas, kept, strict=True)]

    def _energy(self, kept: list[Tensor]) -> float:
        share = sum(float(part.double().square().sum()) for part in kept)
        return share / sum(float(whole.double().square().sum()) for whole in self._deltas)

    def _effect(self, edited: list[Tensor]) -> np.ndarray:
        return self.runner.run(edited).numpy() - self.base

    def _share(self, edited: list[Tensor]) -> float:
        return float(self._effect(edited).mean() / self.effect.mean())


def _columns() -> list[str]:
    ranges = [f"{name}{end}" for name in (*_MEASURED, *_CONTROLS) for end in ("", "_low", "_high")]
    return ["k", "energy", *ranges, "random_energy"]
