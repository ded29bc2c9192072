"""Which singular directions carry the effect of a trained singular adapter: in its own basis, checked, beside nulls.

    attribute_singular(model, steering, prompts, metrics.log_odds(yes, no))

The basis is made of the adapter's own saved U, S and V: triple i of each map is a direction, what it does is its scale λ_i
and its part of the rotations. Shares are integrated gradients by what is kept of each triple (`singular_runs`); each claim
is then tried by switching triples, maps and layers really off (`singular_parts`). Directions are selected on some contexts
and checked on the others, and the same procedure runs in meaningless bases: random orthonormal ones of the same dimensions
of the same adapters, which write and read the same spans.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.adapters import Singular
from mechsteer.attribution.crossfit import redrawn, split
from mechsteer.attribution.effect_attribution import COLUMNS
from mechsteer.attribution.ground import cancelled, unclear
from mechsteer.attribution.metrics import Metric, MetricFunction, as_metric
from mechsteer.attribution.nulls import N_DRAWS, Comparing, Nulls, blind_among
from mechsteer.attribution.selection import Evidence, Selection, by_share
from mechsteer.attribution.singular_attribution import SingularAttribution, SingularSettings
from mechsteer.attribution.singular_facts import in_words, ranked
from mechsteer.attribution.singular_parts import Axes
from mechsteer.attribution.singular_runs import prepared, really_switched, resolved_slopes
from mechsteer.attribution.singular_switching import LOST, Contexts, one_by_one, parts_frame
from mechsteer.attribution.tabulating import table
from mechsteer.errors import ConfigError
from mechsteer.features.reason_score import FeatureScores
from mechsteer.results import Interval, cluster_weights
from mechsteer.runtime.batches import encode_pairs
from mechsteer.steering.interventions import Interventions

SIZES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, eq=False)
class _Shares(Comparing):
    """Shares add up: what directions do together is, by the integral, the sum of what they do."""

    select: Selection
    group_of: np.ndarray
    fold_of: np.ndarray
    sizes: tuple[int, ...]
    draws: Float[Tensor, "n_folds n_draws n_contexts"]


def attribute_singular(
    model: Any,
    steering: Interventions,
    prompts: Sequence[str | Sequence[int]],
    metric: Metric | MetricFunction,
    *,
    k: int | Sequence[int] | None = None,
    nulls: int = 300,
    nulls_run: int = 20,
    n_off: int = 8,
    n_random: int = 20,
    folds: int = 2,
    groups: Sequence[Hashable] | None = None,
    continuations: Sequence[str | Sequence[int]] | None = None,
    sae: Any = None,
    scores: FeatureScores | None = None,
    seed: int = 0,
    n_bootstrap: int = 1000,
    batch_size: int = 32,
    progress: bool = False,
) -> SingularAttribution:
    """Attribute the effect of all singular adapters in `steering` on `metric` to their own triples, maps and layers.

    `metric`, `prompts`, `continuations`, `folds`, `groups` are those of `attribute_effect`. Other adapters of the steering
    stay on in every run. `k`: numbers of triples kept and switched off; default 1, 2, 4, ..., 32, as far as they go.
    `nulls`: so many meaningless bases ranked by the same gradients, `nulls_run` of them really run. `n_off`: so many
    triples switched off one by one, `n_random`: sets beside each map and layer. `sae`: of the residual stream, for the
    feature closest to what a triple says, `scores` its ReasonScores. Runs of the contexts: about
    2 · (1 + nulls_run) · len(k) + n_off · (2 + nulls_run) + 2 · parts + 3 · n_random. Memory: rank² numbers per prompt and
    adapter. Everything is a function of `seed`.

    Raises ConfigError (no singular adapter that is on, counts out of range, k above the number of triples), DataError
    (fewer groups than folds, no touched token), ShapeError, NonFiniteError, and what `steer` raises.
    """
    if not 0 <= nulls_run <= nulls or min(n_off, n_random) < 0 or n_bootstrap < 1:
        raise ConfigError(
            f"{nulls=}, {nulls_run=}, {n_off=}, {n_random=}, {n_bootstrap=}",
            "counts are 0 or more, nulls_run is at most nulls, at least one resample",
        )
    metric = as_metric(metric).prepared(model)
    group_of, fold_of = split(groups, len(prompts), folds, seed)
    pairs = encode_pairs(model, prompts, metric.continuations if continuations is None else continuations)
    runs = prepared(model, steering, pairs, metric, fold_of, batch_size)
    own = Axes.own(runs.adapters)
    sizes = _sizes(k, len(own))
    base, steered = runs.run(runs.nothing), runs.run(None)
    effect = steered - base
    weights = cluster_weights(group_of.max() + 1, n_bootstrap, np.random.default_rng(seed))[:, group_of]
    total = Interval.from_draws(effect.mean(), (weights @ effect) / np.maximum(weights.sum(1), 1))
    again = prepared(model, steering, pairs, metric, fold_of, batch_size, other_order=True)
    noise = float(np.abs(again.run(None) - again.run(again.nothing) - effect).mean())
    reason = unclear(total, noise, torch.as_tensor(base), torch.as_tensor(steered))
    slopes, steps = resolved_slopes(runs, total.value)
    contributions = own.contributions(slopes)
    reason = reason or cancelled(total, float(contributions.mean(0).abs().sum()))
    directions = ranked(runs, contributions.mean(0), None if reason else total.value)
    check = pd.DataFrame([{"k": size} for size in sizes], columns=list(COLUMNS))
    lost, contexts = None, None
    if not reason:
        contexts = Contexts(runs, base, effect, group_of, fold_of)
        comparing = _Shares(by_share, group_of, fold_of, sizes, redrawn(group_of, fold_of, N_DRAWS, seed))
        found = _evidence(contributions)
        chosen = comparing.chosen(found)
        checked = really_switched(runs, own, chosen, sizes, base)
        first = directions["direction"].tolist()[:n_off]
        drawn, null_lost = _nulls(contexts, comparing, slopes, len(first), nulls, nulls_run, seed + 1, progress)
        blind = blind_among(found, sizes, n_random, seed)
        check = table(comparing, found, chosen, checked, effect, drawn, np.arange(len(effect)), blind)
        lost = one_by_one(contexts, own, first, null_lost)
    words, chance = in_words(model, runs, directions, sae, scores, seed)
    return SingularAttribution(
        total=total.value,
        interval=(total.low, total.high),
        base=torch.as_tensor(base),
        steered=torch.as_tensor(steered),
        directions=pd.concat([directions, pd.DataFrame(columns=list(LOST)) if lost is None else lost, words], axis=1),
        parts=parts_frame(directions, own, contexts, n_random, seed),
        check=check.astype(dict.fromkeys(COLUMNS[1:], float)),
        chance_cosine=chance,
        linear=float(contributions.sum(1).mean()),
        noise=noise,
        nothing_to_attribute=bool(reason),
        reason=reason,
        settings=SingularSettings(
            k=sizes,
            nulls=nulls,
            nulls_run=nulls_run,
            n_off=min(n_off, len(own)),
            n_random=n_random,
            folds=folds,
            n_groups=int(group_of.max()) + 1,
            steps=steps,
            seed=seed,
            n_bootstrap=n_bootstrap,
            held=tuple(iv.site for iv in runs.ivs if not isinstance(iv.adapter, Singular)),
        ),
    )


def _sizes(k: int | Sequence[int] | None, n_dirs: int) -> tuple[int, ...]:
    if k is None:
        return tuple(size for size in SIZES if size <= n_dirs)
    sizes = tuple(sorted({k} if isinstance(k, int) else set(k)))
    if not sizes or not 1 <= sizes[0] <= sizes[-1] <= n_dirs:
        raise ConfigError(f"k={sizes} of {n_dirs} triples", f"numbers of triples, 1 to {n_dirs}")
    return sizes


def _evidence(contributions: Float[Tensor, "n_prompts n_dirs"]) -> Evidence:
    """Directions that have nothing in common: what several keep is the sum of what each contributes."""
    n_dirs = contributions.shape[1]
    number, apart = torch.arange(n_dirs), torch.eye(n_dirs, dtype=torch.float64)
    every = torch.ones(1, n_dirs, dtype=torch.float64)
    return Evidence(number, apart, contributions, every, contributions[:, None], True)


def _nulls(
    contexts: Contexts,
    comparing: Comparing,
    slopes: Sequence[Tensor],
    n_off: int,
    n: int,
    n_run: int,
    seed: int,
    progress: bool,
) -> tuple[Nulls, np.ndarray]:
    """(the procedure in `n` meaningless bases, `n_run` of them really run; [n_run n_off] what goes with the direction of
    each rank)."""
    runs, generator = contexts.runs, torch.Generator().manual_seed(seed)
    curves, checked, lost = [], [], []
    for number in tqdm(range(n), desc="nulls", disable=not progress, leave=False):
        axes = Axes.random(runs.adapters, generator)
        found = _evidence(axes.contributions(slopes))
        curves.append(comparing.curve(found))
        if number < n_run:
            checked.append(really_switched(runs, axes, comparing.chosen(found), comparing.sizes, contexts.base))
            first = found.contributions.mean(0).abs().argsort(descending=True)[:n_off]
            lost.append([contexts.lost(axes.left(one)).value for one in first[:, None]])
    recorded = np.stack(curves) if curves else np.zeros((0, len(comparing.sizes)))
    return Nulls(recorded, tuple(checked), ()), np.array(lost).reshape(-1, n_off)
