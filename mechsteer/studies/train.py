"""Stage train: an adapter of any kind, its place and strength chosen on dev; or a steering file of one's own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch

from mechsteer.evaluation import Tried
from mechsteer.evaluation.choice import Candidate, SteeringChoice
from mechsteer.models.sites import Site
from mechsteer.runtime.scopes import TokenScope
from mechsteer.runtime.threads import each_of
from mechsteer.steering.calibration import strengths
from mechsteer.steering.files import BUDGET, load_steering, save_steering
from mechsteer.steering.interventions import Steering, writing
from mechsteer.steering.presets import width
from mechsteer.studies.choosing import Dev
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import SEEDS, STEERING, Kept, seed_file, states
from mechsteer.studies.objectives import Material, material
from mechsteer.studies.places import Place, layers_tried, measured, places, untrained
from mechsteer.studies.problems import Problems
from mechsteer.studies.results import CaptureResult, TracesResult, TrainResult
from mechsteer.studies.told import carried, data_of, metrics_of
from mechsteer.training import FitConfig, FitResult, fit_in_phases, oriented

_CYCLE = 32  # pairs seen, of which 8 share a step: a cycle needs 4 steps
_LONGEST = 100  # letters of a file name
N_KL = 64  # dev prompts on which the adapter's strength in nats is measured


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One training to be done."""

    place: Place
    number: int
    """of the adapter seed"""
    seed: int
    start: Steering


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """What came of it."""

    result: FitResult
    first: tuple[FitResult, ...]
    """of the phases before"""
    sign: int | None
    """of a contrastive training, decided on pairs held out; −1: its parameters were negated"""


def train(desk: Desk, traces: TracesResult, capture: CaptureResult) -> TrainResult:
    """adapter.safetensors: one steering; place and strength are chosen on dev.

    What is minimised is `adapter.objective` (mechsteer.studies.objectives), by default the cross-entropy on the model's
    own verified-correct training samples (or the positive continuation), + KL on what is to stay as it is: the text of
    the questions (or of the prompts).
    """
    how, kept, problems = desk.settings.adapter, Kept(desk), Problems(desk, traces.metric)
    dev = Dev(desk, problems)
    if how.path is not None:
        return _own(desk, kept, problems, dev, how.path)
    shared = material(desk, kept, problems)
    scope = scope_of(problems)
    candidates = places(desk.model, how.kind, how.sites, layers_tried(desk.model, desk.settings))
    jobs = [_job(desk, place, scope, 0) for place in candidates]
    fitted = dict(zip(candidates, each_of(lambda job: _fitted(desk, kept, job, shared), jobs), strict=True))
    strengths_tried = sorted(how.coeffs if problems.metric != "log_odds" else [1.0], key=abs)  # of equals the weakest
    pairs = [(place, coeff) for coeff in strengths_tried for place in candidates]
    steerings = [fitted[place].result.steering.with_coeff(coeff) for place, coeff in pairs]
    number, tried = dev.halve("dev", steerings, [f"{place}-{coeff}" for place, coeff in pairs], whole=True)
    best, coeff = pairs[number]
    jobs = [_job(desk, best, scope, i) for i in range(1, how.seeds)]
    trained = [fitted[best], *each_of(lambda job: _fitted(desk, kept, job, shared), jobs)]
    fits = [one.result for one in trained]
    chosen = [at_strength(result.steering, coeff) for result in fits]
    base = dev.scores((), "base")
    for i, (steering, result) in enumerate(zip(chosen, fits, strict=True)):
        provenance = {
            "trained_on": result.data_hash,
            "n_samples": len(shared.train),
            "objective": how.objective,
            "metric": problems.metric,
            **({} if trained[i].sign is None else {"sign_on_held_out": trained[i].sign}),
            "chosen_on_dev": {"place": str(best), "coeff": coeff, "score": tried[number].score},
        }
        path = desk.write(STEERING) if i == 0 else seed_file(desk.write(SEEDS), i)
        asked = (tried[number].scores, base) if i == 0 else ()
        told = {"data": data_of(desk, problems, result), "metrics": metrics_of(result, problems.metric, *asked)}
        save_steering(steering, path, desk.model, provenance=provenance, budget_bytes=_budget(steering), **told)
    return TrainResult(
        kind=how.kind,
        site=best.measured,
        choice=SteeringChoice(
            metric=problems.metric,
            tried=tuple(_candidate(*pair, found) for pair, found in zip(pairs, tried, strict=True)),
            chosen=_candidate(best, coeff, tried[number]),
            base_score=float(base.mean()),
            n_samples=len(shared.train),
            strengths=strengths(desk.model, chosen[0], problems.prompts("dev", N_KL)),
            median_resid_norm=median_norm(desk, kept, best.measured),
        ),
        fitted=tuple(map(_timeless, fits)),
        first_phase=tuple(_timeless(one.first[0]) for one in trained if one.first),
        n_neutral=len(shared.neutral),
    )


def _own(desk: Desk, kept: Kept, problems: Problems, dev: Dev, path: str) -> TrainResult:
    """One's own steering, as it is."""
    steering = load_steering(path, desk.model)
    save_steering(steering, desk.write(STEERING), desk.model, provenance={"from": "a file"}, **carried(path))
    sites = tuple(str(iv.site.at(desk.model)) for iv in writing(steering))
    score = dev.score(steering, "dev-own")
    candidate = Candidate(sites=sites, coeff=steering.coeff, score=score, n_items=len(dev.items))
    return TrainResult(
        kind="own",
        site=measured(desk.model, steering),
        choice=SteeringChoice(
            metric=problems.metric,
            tried=(candidate,),
            chosen=candidate,
            base_score=dev.score((), "base"),
            n_samples=0,
            strengths=strengths(desk.model, steering, problems.prompts("dev", N_KL)),
            median_resid_norm=median_norm(desk, kept, measured(desk.model, steering)),
        ),
        fitted=(),
        n_neutral=0,
    )


def _job(desk: Desk, place: Place, scope: TokenScope, number: int) -> _Job:
    """The training at a place of adapter seed `number`. In a row: what an adapter draws is of the global generator."""
    how, layer = desk.settings.adapter, place.measured.layer
    seed = desk.seed("adapter", layer) if number == 0 else desk.seed("adapter", layer, number)
    start = untrained(place, desk.model, how.kind, how.args, scope, seed=seed)
    return _Job(place=place, number=number, seed=seed, start=start)


def _timeless(result: FitResult) -> FitResult:
    """The same in every run."""
    return replace(result, seconds=float("nan"))


def _budget(steering: Steering) -> int | None:
    """Of a booster's file; what keeps a basis of the weights has none."""
    return None if any(iv.adapter.weight_hash for iv in writing(steering)) else BUDGET


def _fitted(desk: Desk, kept: Kept, job: _Job, shared: Material) -> _Trained:
    """One training, phase by phase."""
    how, place, start = desk.settings.adapter, job.place, job.start
    rms = median_norm(desk, kept, place.sites[0][1]) / width(desk.model, place.sites[0][1]) ** 0.5
    lr = how.lr if how.lr is not None else writing(start)[0].adapter.default_lr
    is_contrast = how.objective == "separation"
    config = FitConfig(
        lr=lr,
        activation_rms=rms,
        epochs=how.epochs,
        batch_size=how.batch_size,
        seed=job.seed,
        group_lengths=how.group_lengths,
        recompute_blocks=how.recompute,
        schedule="one_cycle" if is_contrast and how.epochs * len(shared.train) >= _CYCLE else "constant",
    )
    has_gate = any(iv.adapter.has_gate for iv in writing(start))
    (reads, write), *others = place.sites
    is_one_trajectory = not others and reads == (write,) and write.point == "resid_post"
    asked = {"has_gate": has_gate, "is_one_trajectory": is_one_trajectory}
    phases = fit_in_phases(
        desk.model,
        start,
        # the penalty, too, is in units of the activations
        shared.phases(config, **asked, kl_weight=how.kl_weight, l2_weight=how.l2_weight / rms**2),
        checkpoint=desk.checkpoint(f"adapter-{_short(place)}-{job.number}.safetensors"),
        progress=desk.progress,
    )
    *first, result = phases
    if not is_contrast:
        return _Trained(result=result, first=tuple(first), sign=None)
    found = oriented(desk.model, result.steering, shared.dev)
    return _Trained(result=replace(result, steering=found.steering), first=tuple(first), sign=found.sign)


def _short(place: Place) -> str:
    """A file's name for a place; one of many sites by a hash of them."""
    name = str(place)
    return name if len(name) <= _LONGEST else hashlib.sha256(name.encode()).hexdigest()[:16]


def _candidate(place: Place, coeff: float, tried: Tried) -> Candidate:
    sites = tuple(str(write) for _, write in place.sites)
    return Candidate(sites=sites, coeff=coeff, score=tried.score, n_items=tried.n_items)


def at_strength(steering: Steering, coeff: float) -> Steering:
    """The steering with its common coefficient multiplied into its interventions."""
    return Steering(steering.with_coeff(coeff).flat())


def scope_of(problems: Problems) -> TokenScope:
    """What the model writes, and the position that predicts its first token; every token where one answer is scored."""
    if problems.metric == "log_odds":
        return TokenScope.all()
    return TokenScope.generated(include_last_prompt=True)


def median_norm(desk: Desk, kept: Kept, site: Site) -> float:
    """Median norm of the activations of the training traces at a site (a mean would be that of attention sinks)."""
    if site in list(kept.store):
        chunks = [chunk.float() for chunk in kept.store[site].flat_batches()]
    else:  # not the residual stream: a sample of the traces will do
        rows = [ids for ids, _ in kept.rows("train")[:64]]
        chunks = [states(desk.model, rows, site, desk.settings.batch_size).flat().flatten(1).float()]
    return float(torch.cat([chunk.norm(dim=-1) for chunk in chunks]).median())
