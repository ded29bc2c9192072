"""Stage attribute: what the adapter is made of, and the check of every such claim by running the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mechsteer.attribution import (
    Attribution,
    EffectAttribution,
    attribute_effect,
    attribute_encoder,
    attribute_logits,
    attribute_maps,
    deltas,
    metrics,
)
from mechsteer.attribution import attribute as attribute_deltas
from mechsteer.attribution.facts import DirectionFacts, direction_facts
from mechsteer.bases import Basis, from_sae, singular
from mechsteer.models.sites import Site
from mechsteer.steering.interventions import Steering
from mechsteer.studies.desk import Desk
from mechsteer.studies.features import seen_in_words
from mechsteer.studies.kept import Kept, whole
from mechsteer.studies.problems import Problems
from mechsteer.studies.results import (
    AttributeResult,
    CaptureResult,
    ReasonscoreResult,
    SaeResult,
    TracesResult,
    TrainResult,
)

DECODER, ENCODER, FEATURES = "SAE features by the decoder", "SAE features by the encoder", "SAE features"
N_TOP, N_OF_MAP, N_OF_EFFECT = 10, 5, 12  # directions of a reading, a map and an effect that are told in words


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """What the adapter runs on, and what of it is measured."""

    prompts: Sequence[list[int]]
    continuations: Sequence[list[int]] | None
    metric: metrics.Metric
    named: str


def attribute(
    desk: Desk,
    traces: TracesResult,
    capture: CaptureResult,
    train: TrainResult,
    sae: SaeResult,
    reasonscore: ReasonscoreResult,
) -> AttributeResult:
    """The adapter in SAE features, singular directions and logits; effect shares, sufficiency and necessity.

    Of a steering at several sites it is the last one in the residual stream that is attributed, given the others.
    """
    kept, problems, model = Kept(desk), Problems(desk, traces.metric), desk.model
    steering, how = kept.steering(), desk.settings.attribute
    seen = contexts(desk, kept, problems)
    site = stream_site(model, steering)
    result = AttributeResult(site=site or train.site, n_prompts=len(seen.prompts), metric=seen.named)
    if site is None:
        return replace(result, not_read="the adapter does not write into the residual stream")
    d = deltas(model, steering, seen.prompts, continuations=seen.continuations)
    reading, writing = downstream(desk, site), singular(model, maps=("o", "down"), layers=[site.layer], side="left")
    written, down = one_map(writing)
    bases: dict[str, Basis] = {f"singular directions written by {written}": down}
    readings: dict[str, Attribution] = {}
    if site == sae.site:
        atoms = from_sae(kept.sae(sae.site, desk.settings.sae.path))
        readings = {
            DECODER: attribute_deltas(d, atoms, k=max(how.k), site=site),
            ENCODER: attribute_encoder(d, atoms, site=site),
        }
        bases = {FEATURES: atoms, **bases}
    maps = {
        f"singular directions {verb} by {name}": read
        for verb, basis in (("read", reading), ("written", writing))
        if basis is not None
        for name, read in attribute_maps(d, basis, site=site).items()
    }
    effects = {name: effect(desk, steering, site, seen, name, basis) for name, basis in bases.items()}
    return replace(
        result,
        readings=readings,
        maps=maps,
        logits=attribute_logits(model, d, site=site),
        effects=effects,
        facts=facts(desk, kept, sae, reasonscore, readings, maps, effects, bases),
    )


def contexts(desk: Desk, kept: Kept, problems: Problems) -> Contexts:
    """Dev problems with the model's own right and wrong traces; or dev prompts, up to where the continuations part."""
    n, settings = desk.settings.attribute.n_prompts, desk.settings
    if problems.metric == "log_odds":
        pos, neg = problems.ends()
        shared = next((i for i, (x, y) in enumerate(zip(pos, neg, strict=False)) if x != y), 0)
        told = "" if len(pos) == len(neg) == 1 else ", at the token where they part"
        return Contexts(
            prompts=[prompt + pos[:shared] for prompt in problems.prompts("dev", n)],
            continuations=None,
            metric=metrics.log_odds(pos[shared], neg[shared]),
            named=f"ln P({settings.positive!r}) − ln P({settings.negative!r}){told}",
        )
    written = kept.traces("dev")
    right, wrong = ([t for t in written if bool(t.correct) is verdict] for verdict in (True, False))
    chosen = right[: n - min(n // 2, len(wrong))] + wrong[: n // 2]
    rows = [whole(desk.model, trace) for trace in chosen]
    return Contexts(
        prompts=[ids[:k] for ids, k in rows],
        continuations=[ids[k:] for ids, k in rows],
        metric=metrics.target_logprob(
            [ids[k:] for ids, k in rows], weights=[1.0 if t.correct else -1.0 for t in chosen]
        ),
        named="log-probability of the model's own dev traces, right ones minus wrong ones, nats per trace",
    )


def stream_site(model: Any, steering: Steering) -> Site | None:
    """The last site of the residual stream that the steering writes; None where it writes elsewhere."""
    sites = [iv.site.at(model) for iv in steering.flat() if iv.site.point.startswith("resid_")]
    return max(sites, key=lambda site: site.layer) if sites else None


def downstream(desk: Desk, site: Site) -> Basis | None:
    """Singular directions that the maps of the block behind a site read; None behind the last."""
    layer = int(site.layer) + (site.point == "resid_post")
    return singular(desk.model, layers=[layer], site=site) if layer < desk.model.cfg.n_layers else None


def one_map(basis: Basis) -> tuple[str, Basis]:
    """The `down` map of a union over maps, with its name: one orthonormal block."""
    return next((name, block) for name, block in basis.split().items() if name.startswith("down"))


def effect(desk: Desk, steering: Steering, site: Site, seen: Contexts, name: str, basis: Basis) -> EffectAttribution:
    """The effect on the metric shared out over a basis, and checked; kept under the name of the basis."""
    how = desk.settings.attribute

    def compute() -> EffectAttribution:
        return attribute_effect(
            desk.model,
            steering,
            seen.prompts,
            basis,
            seen.metric,  # it brings its own continuations
            site=site,
            k=[size for size in how.k if size <= len(basis)],
            n_random=how.n_random,
            integrated=how.integrated,
            seed=desk.seed("attribute"),  # one bootstrap: one total effect, whatever the basis
            progress=desk.progress,
        )

    return desk.piece(name, compute, EffectAttribution)


def facts(
    desk: Desk,
    kept: Kept,
    sae: SaeResult,
    reasonscore: ReasonscoreResult,
    readings: Mapping[str, Attribution],
    maps: Mapping[str, Attribution],
    effects: Mapping[str, EffectAttribution],
    bases: Mapping[str, Basis],
) -> dict[str, dict[int, DirectionFacts]]:
    """Of every direction that the report names: what it promotes; of a feature also its score, density and contexts."""
    told = {name: list(reading.top(N_TOP)["direction"]) for name, reading in readings.items()}
    told |= {name: list(reading.top(N_OF_MAP)["direction"]) for name, reading in maps.items()}
    told |= {name: list(result.top(N_OF_EFFECT)["direction"]) for name, result in effects.items()}
    of_features = {*readings, FEATURES} & told.keys()
    named = sorted({int(i) for name in of_features for i in told[name]})
    seen = {}
    if named:
        seen = seen_in_words(kept, kept.sae(sae.site, desk.settings.sae.path), sae.site, named)
    basis_of = {**{name: reading.basis for name, reading in {**readings, **maps}.items()}, **bases}
    found = {}
    for name, directions in told.items():
        basis = basis_of[name]
        assert basis is not None, "what was just computed has its basis"
        is_feature = name in of_features
        found[name] = direction_facts(
            desk.model,
            basis,
            [int(i) for i in directions],
            features=seen if is_feature else None,
            scores=reasonscore.scores if is_feature else None,
        )
    return found
