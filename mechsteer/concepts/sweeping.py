"""Experiments on concepts: each layer's own vector over strengths, and two concepts mixed.

sweep_concept   the share of texts that show a concept, layer by layer, each by the vector found there
mix_concepts    (1 − t) a + t b for t from 0 to 1: which of the two do texts show?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import binomtest

from mechsteer.adapters import Static
from mechsteer.concepts.extracting import concept_vectors
from mechsteer.concepts.reading import Concept
from mechsteer.concepts.showing import ShowsConcept, neutral_items
from mechsteer.errors import ConfigError
from mechsteer.evaluation import StrengthSweep, sweep
from mechsteer.models.sites import Site
from mechsteer.results import Interval, Result
from mechsteer.steering import Intervention, generate


@dataclass(frozen=True, kw_only=True)
class ConceptMixing(Result):
    """Texts written with (1 − t) a + t b: how many show each of the two."""

    names: tuple[str, str]
    site: str
    coeff: float
    n_texts: int
    """per weight"""
    weights: tuple[float, ...]
    """t"""
    shows_a: tuple[Interval, ...]
    """share per weight, with Wilson's interval"""
    shows_b: tuple[Interval, ...]


def sweep_concept(
    model: Any,
    concept: Concept,
    layers: Sequence[int],
    coeffs: Sequence[float],
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 32,
    n_random: int = 3,
    seed: int = 0,
    cache: str | None = None,
) -> StrengthSweep:
    """`evaluation.sweep` at each layer of that layer's own vector, scored by `ShowsConcept`; `norm` is the mean over layers.

    Raises ConfigError for no layers, or one twice, and what `concept_vectors` and `sweep` raise.
    """
    if not layers or len(set(layers)) < len(layers):
        raise ConfigError(f"a sweep over the layers {list(layers)}", "give at least one, and each once")
    sites = [Site(layer, "resid_post") for layer in layers]
    scoring = ShowsConcept(concept=concept, max_new_tokens=max_new_tokens, seed=seed)
    items = neutral_items(prompts)
    each = [
        sweep(model, vector, [site], coeffs, scoring, items, n_random=n_random, seed=seed)
        for site, vector in zip(sites, concept_vectors(model, [concept], sites, cache=cache), strict=True)
    ]
    return replace(
        each[0],
        norm=float(np.mean([one.norm for one in each])),
        cells=tuple(cell for one in each for cell in one.cells),
        random=tuple(tuple(cell for one in each for cell in one.random[i]) for i in range(n_random)),
    )


def mix_concepts(
    model: Any,
    concepts: tuple[Concept, Concept],
    layer: int,
    prompts: Sequence[str],
    *,
    coeff: float,
    weights: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    max_new_tokens: int = 32,
    seed: int = 0,
    cache: str | None = None,
) -> ConceptMixing:
    """Texts on `prompts` under coeff · ((1 − t) a + t b) at the residual stream of `layer`, for each weight t.

    Raises ConfigError for a concept with itself, and what `concept_vectors` and `generate` raise.
    """
    names = (concepts[0].name, concepts[1].name)
    if names[0] == names[1]:
        raise ConfigError(f"{names[0]!r} is mixed with itself", "choose two concepts")
    a, b = concept_vectors(model, concepts, Site(layer, "resid_post"), cache=cache)
    shown: list[list[int]] = []
    for t in weights:
        vector = (1 - t) * a + t * b
        iv = Intervention(Static(vector.vector), Site(layer, "resid_post"), coeff=coeff)
        texts = generate(model, prompts, iv, max_new_tokens=max_new_tokens, temperature=1.0, seed=seed).texts
        shown.append([sum(concept.shows(text) for text in texts) for concept in concepts])
    sides = [tuple(_share(counts[i], len(prompts)) for counts in shown) for i in (0, 1)]
    return ConceptMixing(
        names=names,
        site=str(Site(layer, "resid_post")),
        coeff=coeff,
        n_texts=len(prompts),
        weights=tuple(weights),
        shows_a=sides[0],
        shows_b=sides[1],
    )


def _share(count: int, n: int) -> Interval:
    found = binomtest(count, n).proportion_ci(method="wilson")
    return Interval(value=count / n, low=float(found.low), high=float(found.high))
