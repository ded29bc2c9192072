"""What an attribution of an effect stands on, whatever the basis: runs without and with the intervention, gradients."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mechsteer.attribution.crossfit import split
from mechsteer.attribution.gradients import Recorded, Steps, record
from mechsteer.attribution.metrics import Metric, MetricFunction, as_metric
from mechsteer.attribution.replay import Runner, prepare
from mechsteer.errors import ConfigError
from mechsteer.models.sites import SiteLike
from mechsteer.results import Interval, cluster_weights
from mechsteer.steering.interventions import Interventions

_LEFT_OVER = 1e-3  # of Σ |contributions|: an effect under this is what opposite parts left of each other
_ROUNDING = 4  # times the difference between two evaluation orders
_NUDGE = 1 + 2**-18  # of a delta: a few last bits in float32


@dataclass(frozen=True, eq=False)
class Ground:
    """See `effect_ground`. Rows are prompts, in their order."""

    runner: Runner
    group_of: np.ndarray
    fold_of: np.ndarray
    base: Tensor
    steered: Tensor
    effect: np.ndarray  # of the whole intervention on every prompt
    total: Interval
    noise: float
    reason: str  # why there is nothing to attribute; empty where there is
    recorded: Recorded
    integrated: Steps
    seed: int
    n_bootstrap: int
    made_with: dict[str, Any]
    parts: dict[int, tuple[np.ndarray, Runner]] = field(default_factory=dict)

    def part(self, n: int) -> tuple[np.ndarray, Runner]:
        """(numbers of at most `n` prompts drawn from all, a runner of these alone)."""
        if n >= len(self.effect):
            return np.arange(len(self.effect)), self.runner
        if n not in self.parts:
            rows = np.sort(np.random.default_rng(self.seed).choice(len(self.effect), n, replace=False))
            self.parts[n] = rows, _part(**self.made_with, rows=rows)
        return self.parts[n]


def effect_ground(
    model: Any,
    iv: Interventions,
    prompts: Sequence[str | Sequence[int]],
    metric: Metric | MetricFunction,
    *,
    folds: int = 2,
    groups: Sequence[Hashable] | None = None,
    integrated: Steps = "auto",
    seed: int = 0,
    n_bootstrap: int = 1000,
    site: SiteLike | None = None,
    continuations: Sequence[str | Sequence[int]] | None = None,
    batch_size: int = 32,
) -> Ground:
    """What `attribute_effect` needs before it looks at a basis: for several bases it is computed once.

    Arguments and errors are those of `attribute_effect`.
    """
    if n_bootstrap < 1 or (integrated != "auto" and integrated < 0):
        raise ConfigError(
            f"{integrated=}, {n_bootstrap=}", 'a number of steps, 0 for the base run, or "auto"; at least one resample'
        )
    group_of, fold_of = split(groups, len(prompts), folds, seed)
    metric = as_metric(metric)
    runner = prepare(model, iv, prompts, continuations, metric, site, batch_size)
    base, steered = runner.gather("base"), runner.gather("steered")
    effect = (steered - base).numpy()
    weights = cluster_weights(group_of.max() + 1, n_bootstrap, np.random.default_rng(seed))[:, group_of]
    total = Interval.from_draws(effect.mean(), (weights @ effect) / np.maximum(weights.sum(1), 1))
    again = prepare(model, iv, prompts, continuations, metric, site, batch_size, other_order=True)
    noise = _rounding(runner, again, effect)
    reason = unclear(total, noise, base, steered)
    # below the noise there is no line to refine along
    recorded = record(runner, 0 if integrated == "auto" and reason else integrated)
    made_with = {"model": model, "iv": iv, "prompts": prompts, "continuations": continuations}
    made_with |= {"metric": metric, "site": site, "batch_size": batch_size}
    return Ground(
        *(runner, group_of, fold_of, base, steered, effect, total, noise, reason, recorded),
        *(integrated, seed, n_bootstrap, made_with),
    )


def _rounding(runner: Runner, again: Runner, effect: np.ndarray) -> float:
    """How far rounding moves an effect, mean over prompts: in another evaluation order, and by the delta's last bits."""
    reordered = (again.gather("steered") - again.gather("base")).numpy()
    nudged = runner.run([each.delta * _NUDGE for each in runner.batches]).numpy() - runner.gather("base").numpy()
    return float(max(np.abs(effect - other).mean() for other in (reordered, nudged)))


def unclear(total: Interval, noise: float, base: Tensor, steered: Tensor) -> str:
    """Why an effect is none; empty where it is one."""
    told = f"the total effect {total.value:.4g}"
    if total.low <= 0 <= total.high:
        return f"{told} has the interval [{total.low:.4g}, {total.high:.4g}], which holds 0"
    floor = torch.finfo(torch.float32).eps * float((base.abs() + steered.abs()).mean())
    if abs(total.value) <= (least := max(_ROUNDING * noise, floor)):
        return f"{told} is not beyond {least:.2g}, what the rounding of the arithmetic makes"
    return ""


def cancelled(total: Interval, size: float) -> str:
    """Why an effect is only what its parts, `size` in sum of sizes, leave of each other; empty where it is more."""
    if abs(total.value) >= _LEFT_OVER * size:
        return ""
    return (
        f"the total effect {total.value:.4g} is under {_LEFT_OVER:g} of {size:.4g}, the sizes of its parts: they cancel"
    )


def _part(
    model: Any,
    iv: Interventions,
    prompts: Sequence[str | Sequence[int]],
    continuations: Sequence[str | Sequence[int]] | None,
    metric: Metric,
    site: SiteLike | None,
    batch_size: int,
    rows: np.ndarray,
) -> Runner:
    """A runner of these prompts alone."""
    some = None if continuations is None else [continuations[i] for i in rows]
    own = metric.prepared(model).of(rows.tolist())
    return prepare(model, iv, [prompts[i] for i in rows], some, own, site, batch_size)
