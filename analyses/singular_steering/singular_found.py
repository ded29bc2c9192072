"""The makes that claims compare, and a finding per claim about effects at equal loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from common import Finding, pooled
from singular_compared import OfSeed, Rows, asymmetry, differences, error, over_preferences, told
from singular_makes import Make, Swept, Workshop
from singular_tasks import HONESTY

from mechsteer.directions.separating import Separating

OWN = Make(name="singular")
SIDES = (
    Make(name="U alone", options={"rotate_u": True, "rotate_v": False}),
    Make(name="both sides", options={"rotate_u": True}),
    Make(name="no rotation", options={"rotate_v": False}),
)
MULT = Make(name="mult", options={"mode": "mult"})
SAMPLEWISE = Make(name="sample-wise", direction=Separating(kind="own"))
BEFORE, AFTER = (
    Make(name=f"projected {when}", direction=Separating(kind="pairwise_pca", measure="down", projection=when))
    for when in ("before", "after")
)
SINGLE = {name: Make(name=f"{name} alone", maps=(name,)) for name in ("q", "k", "v", "gate", "up")}
LATER = tuple(Make(name=f"loss at N - {3 - i}", later=i) for i in (1, 2))
PATIENT = Make(name="margin 2, long", margin=2.0, longer=4)
SMALL = Make(name="small angles", options={"theta_max": math.pi / 12})
BETWEEN = (2.5, 3.0)  # where vectors stop being answered, or lose what is compared at
MEANS, PCA = (Make(name=name, baseline=name, finer=BETWEEN) for name in ("mean_difference", "pairwise_pca"))
S_SPACE, LORA, PROMPT = (Make(name=name, baseline=name) for name in ("s_space", "lora", "prompting"))
RATES = {"a third": 1 / 3, "a tenth": 0.1}
OWN_SLOWER, LORA_SLOWER = (
    tuple(replace(make, name=f"{make.name}, {name} of the rate", rate=rate) for name, rate in RATES.items())
    for make in (OWN, LORA)
)
N_DRAWS = 2
RANDOM = tuple(Make(name=f"random direction {i}", baseline="random", draw=i, finer=BETWEEN) for i in range(N_DRAWS))
UNTRAINED = tuple(Make(name=f"untrained {i}", init=0.3, draw=i) for i in range(N_DRAWS))
CORE = (OWN, *OWN_SLOWER, *SIDES, MULT, MEANS, LORA, *LORA_SLOWER, PROMPT, *RANDOM, *UNTRAINED)
"""What the story model is asked for, too."""
EVERY = (*CORE, PCA, S_SPACE, SAMPLEWISE, BEFORE, AFTER, *SINGLE.values(), *LATER, PATIENT, SMALL)

Tables = dict[str, list[dict[str, Any]]]
Findings = dict[str, Finding]


def none(null: str) -> Finding:
    """Nothing that was measured, and why."""
    return Finding(value=math.nan, low=math.nan, high=math.nan, n_seeds=0, null=null)


def equal(make: Make, pairs: str = "", asked: str = "") -> OfSeed:
    """Its effects at the loss of the settings."""

    def of(shop: Workshop, seed: int) -> tuple[Swept, Rows]:
        swept = shop.swept(make, seed, pairs, asked)
        return swept, swept.at(shop.settings["loss"])

    return of


def mean_of(makes: Sequence[Make], asked: str = "") -> OfSeed:
    """The mean of their effects, question by question."""

    def of(shop: Workshop, seed: int) -> tuple[Swept, Rows]:
        each = [equal(make, asked=asked)(shop, seed) for make in makes]
        return each[0][0], np.mean([rows for _, rows in each], axis=0)

    return of


def tuned(makes: Sequence[Make]) -> OfSeed:
    """Of each seed that of the makes which has the largest mean effect on the other seeds."""

    def of(shop: Workshop, seed: int) -> tuple[Swept, Rows]:
        others = [other for other in shop.seeds if other != seed] or [seed]

        def elsewhere(make: Make) -> float:
            return float(np.mean([told(*equal(make)(shop, other), 10).value for other in others]))

        return equal(max(makes, key=elsewhere))(shop, seed)

    return of


def level(shops: Sequence[Workshop], of: OfSeed) -> float:
    """Mean effect over preferences and seeds."""
    return float(np.mean([told(*of(shop, seed), 10).value for shop in shops for seed in shop.seeds]))


def strongest(shops: Sequence[Workshop], rivals: dict[str, OfSeed]) -> tuple[OfSeed, str]:
    """(the one with the largest mean effect, its name and effect)."""
    levels = {name: level(shops, of) for name, of in rivals.items()}
    name = max(levels, key=lambda each: (levels[each], each))
    return rivals[name], f"{name}: {levels[name]:.2f}"


def rivals(shops: Sequence[Workshop], prefix: str) -> Findings:
    """What is asked of every model. `prefix` of the claims' keys."""
    chance = {"random directions": mean_of(RANDOM), "untrained adapters": mean_of(UNTRAINED)}
    _, null = strongest(shops, chance)
    own = equal(OWN)

    def than(make: Make) -> Finding:
        told_null = f"{make.name}: {level(shops, equal(make)):.2f}; {null}"
        return differences(shops, own, equal(make), told_null)

    every_rate, lora = tuned((OWN, *OWN_SLOWER)), tuned((LORA, *LORA_SLOWER))
    side, named = strongest(shops, {make.name: equal(make) for make in SIDES})
    random, chosen = strongest(shops, chance)
    return {
        f"{prefix}mean difference": than(MEANS),
        f"{prefix}prompting": than(PROMPT),
        f"{prefix}LoRA": differences(shops, every_rate, lora, f"lora: {level(shops, lora):.2f}; {null}"),
        f"{prefix}chance": differences(shops, own, random, chosen),
        f"{prefix}V alone": differences(shops, own, side, f"{named}; {null}"),
        f"{prefix}add": than(MULT),
    }


def variants(shops: Sequence[Workshop]) -> Findings:
    """What is asked of the bundled model alone."""
    own = equal(OWN)
    later, named_later = strongest(shops, {make.name: equal(make) for make in LATER})
    single, named = strongest(shops, {n: equal(m) for n, m in SINGLE.items() if n != "up"})

    def than(left: OfSeed, make: Make) -> Finding:
        return differences(shops, left, equal(make), f"{make.name}: {level(shops, equal(make)):.2f}")

    wide = _reversed(shops, OWN, 1.0)
    small = _reversed(shops, SMALL, 1.0)
    return {
        "beats pairwise PCA": than(own, PCA),
        "beats S-space vector": than(own, S_SPACE),
        "one direction": than(own, SAMPLEWISE),
        "projected before": than(equal(BEFORE), AFTER),
        "up is best": differences(shops, equal(SINGLE["up"]), single, named),
        "after N - 3": differences(shops, own, later, named_later),
        "margin 2": than(equal(PATIENT), OWN),
        "reversible": _pooled(shops, wide, f"mean difference: {_mean(_reversed(shops, MEANS, 1.0)):.2f}"),
        "angle costs": _pooled(shops, _less(wide, small), f"small angles: {_mean(small):.2f}"),
        **_transfers(shops),
    }


Values = list[list[tuple[float, float]]]
"""per preference and seed a value and its standard error"""


def _reversed(shops: Sequence[Workshop], make: Make, coeff: float) -> Values:
    found = []
    for shop in shops:
        each = [asymmetry(shop.swept(make, seed), coeff, shop.settings["n_boot"]) for seed in shop.seeds]
        found.append([(one.value, error(one)) for one in each])
    return found


def _less(left: Values, right: Values) -> Values:
    """Differences, as if their errors were independent."""
    return [
        [(a - b, math.hypot(e, f)) for (a, e), (b, f) in zip(one, other, strict=True)]
        for one, other in zip(left, right, strict=True)
    ]


def _mean(values: Values) -> float:
    return float(np.mean([value for each in values for value, _ in each]))


def _pooled(shops: Sequence[Workshop], values: Values, null: str) -> Finding:
    parts = [(shop.of.name, pooled(each, len(each), null)) for shop, each in zip(shops, values, strict=True)]
    return over_preferences(parts, null)


def _transfers(shops: Sequence[Workshop]) -> Findings:
    """Trained on one thing, asked about another; and questions of which the model may not know the answers."""
    parts, told_of = [], {}
    for shop in shops:
        for pairs, asked in shop.of.transfers:
            null = f"random directions: {level([shop], mean_of(RANDOM, asked)):.2f}"
            found = differences([shop], equal(OWN, pairs, asked), mean_of(RANDOM, asked), null)
            told_of[pairs, asked] = found
            if asked != "asked":
                parts.append((f"{pairs} pairs, questions of {asked}", found))
    known = next(shop for shop in shops if shop.of.name == HONESTY)
    base = known.swept(OWN, 0, "honest", "asked").dose.base
    found = told_of["honest", "asked"]
    told_base = f"unsteered the model is right in {base.accuracy:.2f} of them, score {base.score}"
    unknown = not base.score.low > 0
    outcome = {"outcome": "not testable here", "words": f"the model does not know the answers: {told_base}"}
    more: dict[str, Any] = outcome if unknown else {"words": told_base}
    honest = Finding(value=found.value, low=found.low, high=found.high, n_seeds=found.n_seeds, null=found.null, **more)
    return {
        "transfers": over_preferences(parts, "random directions on the same questions"),
        "honest when asked": honest,
    }
