"""What a concept's steering does to the texts that show it, by directions: a small attribution for one concept.

effect = mean over pairs of ±log p(text | a neutral prompt) per token, + for texts that show the concept and − for the
neutral ones: how much further the steering sets the former above the latter. It is shared out over each basis by
`mechsteer.attribution.attribute_on`, checked by running the model and held against meaningless bases; beside it stands
the direct effect on the logits. The pairs are those that vectors are made from: the effect says what a vector does on
the texts that it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mechsteer.attribution import (
    DirectionFacts,
    EffectAttribution,
    LogitAttribution,
    attribute_logits,
    attribute_on,
    deltas,
    direction_facts,
    effect_ground,
)
from mechsteer.attribution.gradients import Steps
from mechsteer.attribution.metrics import target_logprob
from mechsteer.bases import Basis, singular, unembedding_directions
from mechsteer.concepts.prompts import NEUTRAL
from mechsteer.concepts.reading import Concept
from mechsteer.errors import ConfigError
from mechsteer.models.sites import Site, SiteLike, as_site
from mechsteer.results import Result
from mechsteer.steering import Intervention

METRIC = "how much likelier texts that show it are than neutral ones"
UNIT = "nats per token"
SIZES = (1, 2, 4, 8, 16)
N_FACTS = 8  # directions of each basis of which it is told what tokens they promote


@dataclass(frozen=True, kw_only=True)
class ConceptEffect(Result):
    """The effect of one concept's steering, by basis, and on the logits."""

    name: str
    site: Site
    coeff: float
    effects: Mapping[str, EffectAttribution]
    facts: Mapping[str, Mapping[int, DirectionFacts]]
    """of the first directions of each basis"""
    logits: LogitAttribution


def concept_bases(model: Any, site: SiteLike) -> dict[str, Basis]:
    """Two orthonormal bases of the residual stream: what the block's MLP writes, and what the unembedding reads."""
    layer = int(as_site(site).at(model).layer)
    return {
        f"what the MLP of layer {layer} writes": singular(model, "down", layer, side="left"),
        "what the unembedding reads": unembedding_directions(model),
    }


def explain_concept(
    model: Any,
    concept: Concept,
    iv: Intervention,
    bases: Mapping[str, Basis] | None = None,
    *,
    n_pairs: int = 12,
    nulls: int = 99,
    nulls_run: int = 4,
    integrated: Steps = "auto",
    seed: int = 0,
    pause: Callable[[str], None] | None = None,
) -> ConceptEffect:
    """The effect of `iv` on the texts of a concept, by the directions of `bases` (default: `concept_bases`).

    `nulls` meaningless bases by recorded gradients, `nulls_run` of them really run, beside each; `integrated`: as there. `pause` is told what
    comes next before it begins; what it raises ends the whole. Raises ConfigError for fewer than four pairs, and what
    `attribute_effect` raises.
    """
    if n_pairs < 4:
        raise ConfigError(f"n_pairs is {n_pairs}", "give at least 4: half of them check what the others select")
    site = iv.site.at(model)
    bases = concept_bases(model, site) if bases is None else bases
    tell = pause or _nothing
    tell("the model runs without and with the steering")
    prompts, texts, signs, groups = zip(*_rows(concept, n_pairs), strict=True)
    metric = target_logprob(texts, mean=True, weights=signs)
    ground = effect_ground(model, iv, prompts, metric, groups=groups, integrated=integrated, seed=seed)
    effects, facts = {}, {}
    for name, basis in bases.items():
        tell(f"{name}: {len(basis)} directions, {nulls} meaningless bases beside them")
        sizes = [size for size in SIZES if size <= len(basis)]
        effects[name] = attribute_on(ground, basis, k=sizes, nulls=nulls, nulls_run=nulls_run)
        first = effects[name].order[:N_FACTS].tolist()
        facts[name] = direction_facts(model, basis, first)
    tell("the logits")
    d = deltas(model, iv, prompts, continuations=texts)
    return ConceptEffect(
        name=concept.name, site=site, coeff=iv.coeff, effects=effects, facts=facts, logits=attribute_logits(model, d)
    )


def _nothing(_: str) -> None:
    """Nobody asked to be told."""


def _rows(concept: Concept, n_pairs: int) -> Iterator[tuple[str, str, float, int]]:
    """(prompt, text, sign, pair) twice for each pair."""
    for i, pair in zip(range(n_pairs), concept.pairs, strict=False):
        for text, sign in zip(pair, (1.0, -1.0), strict=True):
            yield NEUTRAL[i % len(NEUTRAL)], f" {text}", sign, i
