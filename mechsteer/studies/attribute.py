"""Stage attribute: what the adapter is made of, and the check of every such claim by running the model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mechsteer.attribution import (
    Attribution,
    EffectAttribution,
    Ground,
    attribute_encoder,
    attribute_logits,
    attribute_maps,
    attribute_on,
    deltas,
    effect_ground,
)
from mechsteer.attribution import attribute as attribute_deltas
from mechsteer.attribution.facts import DirectionFacts, direction_facts
from mechsteer.bases import Basis, from_sae, singular
from mechsteer.models.sites import Site
from mechsteer.runtime.threads import each_of
from mechsteer.steering.interventions import Steering, writing
from mechsteer.studies.contexts import Contexts, contexts
from mechsteer.studies.desk import Desk
from mechsteer.studies.features import seen_in_words
from mechsteer.studies.kept import Kept
from mechsteer.studies.own_triples import MOST_CONTEXTS, has_triples, in_own_triples
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
OF_OTHER_SEEDS = (4, 16)  # how many directions of these SAEs are kept or removed
N_NULL_CONTEXTS = 48  # contexts on which meaningless bases really run
N_TOP, N_OF_MAP, N_OF_EFFECT = 10, 5, 12  # directions of a reading, a map and an effect that are told in words


def attribute(
    desk: Desk,
    traces: TracesResult,
    capture: CaptureResult,
    train: TrainResult,
    sae: SaeResult,
    reasonscore: ReasonscoreResult,
) -> AttributeResult:
    """The adapter in SAE features, singular directions and logits; effect shares, sufficiency and necessity.

    Of a steering at several sites it is the last one in the residual stream that is attributed, given the others; singular
    adapters of one that writes nowhere there in their own triples.
    """
    kept, problems, model = Kept(desk), Problems(desk, traces.metric), desk.model
    steering, how = kept.steering(), desk.settings.attribute
    site = stream_site(model, steering)
    by_triples = site is None and has_triples(steering)
    seen = contexts(desk, kept, problems, min(how.n_prompts, MOST_CONTEXTS) if by_triples else how.n_prompts)
    result = AttributeResult(site=site or train.site, n_prompts=len(seen.prompts), metric=seen.named)
    if site is None:
        found = in_own_triples(desk, kept, steering, seen, sae, reasonscore) if by_triples else None
        return replace(result, not_read="the adapter does not write into the residual stream", triples=found)
    d = deltas(model, steering, seen.prompts, continuations=seen.continuations)
    into, out_of = downstream(desk, site), singular(model, maps=("o", "down"), layers=[site.layer], side="left")
    written, down = one_map(out_of)
    bases: dict[str, Basis] = {f"singular directions written by {written}": down}
    other_seeds: dict[str, Basis] = {}
    readings: dict[str, Attribution] = {}
    if site == sae.site:
        atoms = from_sae(kept.sae(sae.site, desk.settings.sae.path))
        others = [] if desk.settings.sae.path else kept.other_saes(sae.site)
        readings = {
            DECODER: attribute_deltas(d, atoms, k=max(how.k), site=site),
            ENCODER: attribute_encoder(d, atoms, site=site),
        }
        bases = {FEATURES: atoms, **bases}
        other_seeds = {f"{FEATURES}, SAE seed {i}": from_sae(other) for i, other in enumerate(others, start=1)}
    maps = {
        f"singular directions {verb} by {name}": read
        for verb, basis in (("read", into), ("written", out_of))
        if basis is not None
        for name, read in attribute_maps(d, basis, site=site).items()
    }
    ground, effect = shared_effect(desk, steering, site, seen)
    if not all(desk.has_piece(name) for name in (*bases, *other_seeds)):
        ground()  # once, before pieces that begin with it run side by side
    tried = [*((*each, False) for each in bases.items()), *((*each, True) for each in other_seeds.items())]
    found = dict(zip((name for name, _, _ in tried), each_of(lambda each: effect(*each), tried), strict=True))
    effects, of_seeds = ({name: found[name] for name in some} for some in (bases, other_seeds))
    return replace(
        result,
        readings=readings,
        maps=maps,
        logits=attribute_logits(model, d, site=site),
        effects=effects,
        other_seeds=of_seeds,
        facts=facts(desk, kept, sae, reasonscore, readings, maps, {**effects, **of_seeds}, {**bases, **other_seeds}),
    )


def stream_site(model: Any, steering: Steering) -> Site | None:
    """The last site of the residual stream that the steering writes; None where it writes elsewhere."""
    sites = [iv.site.at(model) for iv in writing(steering) if iv.site.point.startswith("resid_")]
    return max(sites, key=lambda site: site.layer) if sites else None


def downstream(desk: Desk, site: Site) -> Basis | None:
    """Singular directions that the maps of the block behind a site read; None behind the last."""
    layer = int(site.layer) + (site.point == "resid_post")
    return singular(desk.model, layers=[layer], site=site) if layer < desk.model.cfg.n_layers else None


def one_map(basis: Basis) -> tuple[str, Basis]:
    """The `down` map of a union over maps, with its name: one orthonormal block."""
    return next((name, block) for name, block in basis.split().items() if name.startswith("down"))


def shared_effect(
    desk: Desk, steering: Steering, site: Site, seen: Contexts
) -> tuple[Callable[[], Ground], Callable[..., EffectAttribution]]:
    """(what all bases begin with, a function of (name, basis)) that shares the effect on the metric out over the basis, checked and kept by name.

    Runs and gradients are the same for all bases. With `is_other` (the SAE of another seed) it is told more briefly:
    two values of k, meaningless bases by recorded gradients alone.
    """
    how = desk.settings.attribute

    @functools.cache  # not at all where everything is kept already
    def ground() -> Ground:
        return effect_ground(
            desk.model,
            steering,
            seen.prompts,
            seen.metric,  # it brings its own continuations
            site=site,
            groups=seen.groups,
            folds=how.folds,
            integrated="auto" if how.integrated is None else how.integrated,
            seed=desk.seed("attribute"),
            batch_size=desk.settings.batch_size,
        )

    def effect(name: str, basis: Basis, is_other: bool = False) -> EffectAttribution:
        alive = int((basis.directions.norm(dim=1) > 0).sum())
        sizes = OF_OTHER_SEEDS if is_other else how.k

        def compute() -> EffectAttribution:
            return attribute_on(
                ground(),
                basis,
                k=sorted({min(size, alive) for size in sizes}),
                nulls=how.nulls,
                nulls_run=0 if is_other else min(how.nulls_run, how.nulls),
                null_contexts=N_NULL_CONTEXTS,
                progress=desk.progress,
            )

        return desk.piece(name, compute, EffectAttribution)

    return ground, effect


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
