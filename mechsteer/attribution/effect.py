"""Which directions of a delta carry its effect on a metric, and whether that is more than any directions would.

share of direction i = Σ_t c_ti ⟨G_t, d_i⟩ / total effect, with delta_t = Σ_i c_ti d_i + residual_t and G_t the gradient
of the metric averaged along the way to the steered run (`gradients`): then shares and residual add up to the effect.

A gradient is a claim. The check runs the model with the delta of every token projected on the span of the first k
directions (sufficiency) and with that projection taken out (necessity), on other contexts than those the directions
were selected on (`crossfit`). And any basis has a few directions that carry an effect once they were selected for it:
the same procedure runs in meaningless bases of the same size and geometry (`nulls`), and what a basis says is what it
says beyond those.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from mechsteer.attribution.checking import really_run
from mechsteer.attribution.crossfit import redrawn
from mechsteer.attribution.effect_attribution import COLUMNS, EffectAttribution, EffectSettings
from mechsteer.attribution.gradients import Steps
from mechsteer.attribution.ground import Ground, cancelled, effect_ground
from mechsteer.attribution.illusions import suspected
from mechsteer.attribution.metrics import Metric, MetricFunction
from mechsteer.attribution.nulls import N_DRAWS, Procedure, blind, run_nulls
from mechsteer.attribution.replay import Runner
from mechsteer.attribution.selection import SELECTIONS, Selection, coded
from mechsteer.attribution.tabulating import table
from mechsteer.bases import Basis, NullKind, as_basis
from mechsteer.errors import ConfigError, DataError, ShapeError
from mechsteer.models.sites import SiteLike
from mechsteer.steering.interventions import Interventions

SIZES = (1, 2, 4, 8, 16, 32)


def attribute_effect(
    model: Any,
    iv: Interventions,
    prompts: Sequence[str | Sequence[int]],
    basis: Basis,
    metric: Metric | MetricFunction,
    *,
    k: int | Sequence[int] | None = None,
    nulls: int = 300,
    nulls_run: int = 20,
    null_kind: NullKind = "rotated",
    null_contexts: int = 64,
    folds: int = 2,
    groups: Sequence[Hashable] | None = None,
    selection: str | Selection = "share",
    n_random: int = 20,
    integrated: Steps = "auto",
    seed: int = 0,
    n_bootstrap: int = 1000,
    site: SiteLike | None = None,
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
    stay on in every run, the base run too, so the effect is that of this site given the others. Everything is a
    function of `seed`.

    `k`: numbers of directions kept and removed; default 1, 2, 4, ..., 32, as far as the basis goes. `selection`:
    "share", "effect" (see `selection`), or a function like those. `folds`: directions are selected on all folds but
    one and checked on that; prompts with one label in `groups` (of one problem, say) are in one fold. `nulls`: so many
    meaningless bases of `null_kind` by recorded gradients, `nulls_run` of them really run, on `null_contexts` contexts
    drawn from all. p-values cannot be under 1 / (1 + nulls), times the number of k after Holm. For a delta with more
    than 256 distinct values nulls, and the check that is compared with them, are coded on 256 tokens evenly spaced; the
    order of directions rests on all.
    `integrated`: steps of integrated gradients, 0 for the gradient at the base run, "auto" for as many as it takes.
    Several bases share runs and gradients: `effect_ground` once, then `attribute_on` for each.

    Raises ConfigError (also for k above the number of directions), ShapeError (basis of another length, metric of
    the wrong shape), NonFiniteError, DataError (fewer groups than folds, a direction twice, a zero direction that is
    no dead feature, no touched token), and what `steer` raises.
    """
    basis = as_basis(basis)
    options: dict[str, Any] = {"k": k, "nulls": nulls, "nulls_run": nulls_run, "null_kind": null_kind}
    options |= {"null_contexts": null_contexts, "selection": selection, "n_random": n_random, "atoms": atoms}
    asked(basis, k, nulls, nulls_run, selection, n_random, atoms)  # before anything runs
    ground = effect_ground(
        *(model, iv, prompts, metric),
        folds=folds,
        groups=groups,
        integrated=integrated,
        seed=seed,
        n_bootstrap=n_bootstrap,
        site=site,
        continuations=continuations,
        batch_size=batch_size,
    )
    return attribute_on(ground, basis, progress=progress, **options)


def attribute_on(
    ground: Ground,
    basis: Basis,
    *,
    k: int | Sequence[int] | None = None,
    nulls: int = 300,
    nulls_run: int = 20,
    null_kind: NullKind = "rotated",
    null_contexts: int = 64,
    selection: str | Selection = "share",
    n_random: int = 20,
    atoms: int = 32,
    progress: bool = False,
) -> EffectAttribution:
    """`attribute_effect` in one basis, on runs and gradients that `effect_ground` has made for all of them.

    Arguments and errors are those of `attribute_effect`.
    """
    basis = as_basis(basis)
    alive, sizes, select = asked(basis, k, nulls, nulls_run, selection, n_random, atoms)
    runner, recorded, atoms = ground.runner, ground.recorded, max(atoms, *sizes)
    _require_fit(runner, basis)
    base, effect, total = ground.base, ground.effect, ground.total
    by_prompt, coefficients, left = coded(recorded, torch.arange(len(recorded.deltas)), basis, atoms)
    contributions, rest = by_prompt.mean(0), float(left.mean())
    size = float(contributions.abs().sum()) + abs(rest)
    reason = ground.reason or cancelled(total, size)
    draws = redrawn(ground.group_of, ground.fold_of, N_DRAWS, ground.seed)
    procedure = Procedure(recorded, atoms, select, ground.group_of, ground.fold_of, sizes, draws)
    order = by_prompt.mean(0).abs().argsort(descending=True, stable=True)
    illusions = torch.zeros(len(basis), dtype=torch.bool)
    numbers = torch.zeros(0, 0, dtype=torch.long)
    spans, null_spans = torch.zeros(0, basis.d_model), torch.zeros(0, 0, basis.d_model)
    check = pd.DataFrame([{"k": size} for size in sizes], columns=list(COLUMNS))
    if not reason:
        found = procedure.evidence(basis)
        # what is told of directions rests on every token, also where a comparison with nulls takes some
        whole = replace(found, contributions=by_prompt[:, found.number])
        picked = procedure.picked(whole)
        first = whole.number[picked[0]]
        order = torch.cat([first, order[~torch.isin(order, first)]])
        illusions[whole.number] = suspected(whole, picked, recorded.linear)
        chosen = procedure.chosen(found)
        numbers = found.number[torch.cat(chosen)]
        own = really_run(runner, base.numpy(), found, chosen, ground.fold_of, sizes)
        rows, few = ground.part(null_contexts if nulls_run else len(effect))
        drawn = run_nulls(
            *(procedure, basis, few, few.gather("base").numpy(), rows, nulls, nulls_run, ground.seed + 1),
            kind=null_kind,
            progress=progress,
        )
        spans, null_spans = procedure.span(found), torch.stack(drawn.spans) if drawn.spans else null_spans
        check = table(
            procedure, found, chosen, own, effect, drawn, rows, blind(found, basis, sizes, n_random, ground.seed)
        )
    return EffectAttribution(
        site=runner.site,
        labels=basis.labels,
        source=basis.source,
        total=total.value,
        interval=(total.low, total.high),
        base=base,
        steered=ground.steered,
        contributions=contributions,
        shares=torch.full_like(contributions, math.nan) if reason else contributions / total.value,
        coefficients=coefficients,
        residual_contribution=rest,
        linear=float(recorded.linear.mean()),
        order=order,
        chosen=numbers,
        illusions=illusions,
        spans=spans.float(),
        null_spans=null_spans.float(),
        check=check.astype(dict.fromkeys(COLUMNS[1:], float)),
        steps=recorded.steps,
        noise=ground.noise,
        n_dead=len(basis) - alive,
        nothing_to_attribute=bool(reason),
        reason=reason,
        settings=EffectSettings(
            k=sizes,
            n_random=n_random,
            integrated=None if ground.integrated == "auto" else ground.integrated,
            atoms=atoms,
            selection=selection if isinstance(selection, str) else getattr(selection, "__name__", "own"),
            folds=int(ground.fold_of.max()) + 1,
            n_groups=int(ground.group_of.max()) + 1,
            nulls=nulls,
            nulls_run=nulls_run,
            null_kind=null_kind,
            null_contexts=min(null_contexts, len(effect)) if nulls_run else 0,
            seed=ground.seed,
            n_bootstrap=ground.n_bootstrap,
            held=tuple(other.site for other in runner.others),
        ),
        basis=basis,
    )


def asked(
    basis: Basis,
    k: int | Sequence[int] | None,
    nulls: int,
    nulls_run: int,
    selection: str | Selection,
    n_random: int,
    atoms: int,
) -> tuple[int, tuple[int, ...], Selection]:
    """(directions that are not zero, values of k, the selection), all of them checked."""
    alive = require_directions(basis)
    select = SELECTIONS.get(selection) if isinstance(selection, str) else selection
    if select is None or n_random < 0 or atoms < 1 or not 0 <= nulls_run <= nulls:
        raise ConfigError(
            f"{selection=}, {n_random=}, {atoms=}, {nulls=}, {nulls_run=}",
            f"selections are {sorted(SELECTIONS)}; counts are positive; nulls and n_random may be 0, "
            "nulls_run is at most nulls",
        )
    return alive, _sizes(k, alive), select


def require_directions(basis: Basis) -> int:
    """How many directions of the basis are not zero.

    Raises DataError for a zero direction that is no dead feature of an autoencoder, and for a direction that is there
    twice: two equal ones share an effect in any way one likes.
    """
    rows = basis.directions
    is_dead = rows.norm(dim=1) == 0
    if bool(is_dead.any()) and basis.source.get("kind") not in ("sae", "meaningless"):
        i = int(is_dead.nonzero()[0])
        raise DataError(f"direction {basis.labels[i]!r} is zero", "leave it out; only dead features of an SAE may be")
    if bool(is_dead.all()):
        raise DataError(f"all {len(rows)} directions are zero", "the autoencoder has no feature that is alive")
    key = (rows.double() * torch.linspace(1, 2, rows.shape[1], dtype=torch.float64).to(rows.device)).sum(1)
    order = key.argsort(stable=True)
    for i, j in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
        if key[i] == key[j] and not is_dead[i] and torch.equal(rows[i], rows[j]):
            first, second = sorted((i, j))
            raise DataError(
                f"directions {basis.labels[first]!r} and {basis.labels[second]!r} are the same vector", "keep one"
            )
    return int((~is_dead).sum())


def _sizes(k: int | Sequence[int] | None, alive: int) -> tuple[int, ...]:
    if k is None:
        return tuple(size for size in SIZES if size <= alive)
    sizes = sorted({k} if isinstance(k, int) else set(k))
    if not sizes or sizes[0] < 1:
        raise ConfigError(f"k={sizes}", "numbers of directions, from 1 on")
    if sizes[-1] > alive:
        raise ConfigError(f"k={sizes[-1]} of {alive} directions", f"k is at most the number of directions, {alive}")
    return tuple(sizes)


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
