"""Which triples carry the effect; and the tables: every steering at equal loss, reversibility, what was written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from common import Finding, pooled
from singular_compared import asymmetry, error, over_preferences, told
from singular_found import CORE, EVERY, OWN, SMALL, Tables, equal, none
from singular_makes import Make, Swept, Workshop
from singular_tasks import STORIES

from mechsteer.attribution import SingularAttribution, attribute_singular
from mechsteer.attribution.metrics import log_odds
from mechsteer.baselines import Steered
from mechsteer.errors import MechsteerError

SIZES = (1, 4, 16)
N_NAMED = 4  # triples of a table


def carried(shops: Sequence[Workshop]) -> tuple[Finding, Tables]:
    """Sufficiency of the first triples on other contexts, less that of meaningless bases."""
    parts, rows, tops = [], [], []
    for shop in shops:
        more, nulls = [], []
        for seed in shop.seeds:
            found = _attributed(shop, seed)
            if found.nothing_to_attribute:
                rows.append({"preference": shop.of.name, "seed": seed, "verdict": found.reason})
                continue
            check = found.check.iloc[-1]
            wide = float(check["beyond_null_high"] - check["beyond_null_low"]) / (2 * 1.96)
            more.append((float(check["beyond_null"]), wide))
            nulls.append(float(check["null_sufficiency"]))
            rows += [_checked(shop.of.name, seed, found, row) for row in found.check.to_dict("records")]
            tops += [_named(shop.of.name, seed, row) for row in found.top(N_NAMED).to_dict("records")]
        null = f"meaningless bases recover {float(np.mean(nulls)) if nulls else math.nan:.2f}"
        if more:
            parts.append((shop.of.name, pooled(more, len(more), null)))
    tables = {
        "The effect in the adapter's own triples, beside meaningless bases": rows,
        "Triples with the largest shares": tops,
    }
    if not parts:
        return none("there was no effect to attribute"), tables
    return over_preferences(parts, "; ".join(f"{name}: {each.null}" for name, each in parts)), tables


def _attributed(shop: Workshop, seed: int) -> SingularAttribution:
    """Of the log-odds of yes after questions whose yes serves the value, at c = 1."""
    s, questions = shop.settings, shop.of.asked[shop.of.name]
    names = ("n_pairs", "rank", "epochs", "lr", "n_contexts", "nulls", "nulls_run")
    key = shop.of.key | {name: s[name] for name in names} | {"attributed": seed}

    def compute() -> Mapping[str, Any]:
        method = shop.method(OWN, seed)
        assert isinstance(method, Steered)
        prompts = [q.prompt for q in questions.questions if q.labels[questions.target] == 1][: s["n_contexts"]]
        metric = log_odds(_single(shop, questions.yes), _single(shop, questions.no), shop.of.model)
        options = {"nulls": s["nulls"], "nulls_run": s["nulls_run"], "n_off": N_NAMED, "n_random": 4}
        sizes = [size for size in SIZES if size <= s["rank"] * 5]
        return attribute_singular(shop.of.model, method.steering, prompts, metric, k=sizes, **options).to_dict()

    return SingularAttribution.from_dict(shop.cells.of(key, compute))


def _single(shop: Workshop, words: Sequence[str]) -> list[str]:
    """Those that are one token as they continue a text."""
    found = []
    for word in words:
        try:
            log_odds(word, 0, shop.of.model)
        except MechsteerError:
            continue
        found.append(word)
    return found


def _checked(preference: str, seed: int, found: SingularAttribution, row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "preference": preference,
        "seed": seed,
        "verdict": found.verdict,
        "effect": found.total,
        "triples": row["k"],
        "sufficiency": row["sufficiency"],
        "meaningless bases": row["null_sufficiency"],
        "p after Holm": row["p_holm"],
    }


def _named(preference: str, seed: int, row: Mapping[Any, Any]) -> dict[str, Any]:
    names = ("label", "share", "lost", "null_lost", "scaled", "turned_v")
    return {"preference": preference, "seed": seed, **{name: row[name] for name in names}}


def makes_of(shop: Workshop) -> tuple[Make, ...]:
    """All that this preference is steered by."""
    return CORE if shop.of.name == STORIES else EVERY


def tables(shops: Sequence[Workshop]) -> Tables:
    """Every steering at equal loss, how reversible adapters are, what the first seed's wrote."""
    effects = [_effect(shop, make) for shop in shops for make in makes_of(shop)]
    apart = [
        _apart(shop, make, coeff)
        for shop in shops
        for make in (OWN, *((SMALL,) if shop.of.name != STORIES else ()))
        for coeff in (1.0, 2.0)
        if coeff in shop.settings["coeffs"]
    ]
    examples = [
        {
            "preference": shop.of.name,
            "steering": make.name,
            "c": each.coeff,
            "question": each.prompt,
            "written": each.text,
        }
        for shop in shops
        for make in CORE
        for each in shop.swept(make, 0).method.examples
    ]
    return {"Effect at equal loss": effects, "How far from reversible": apart, "What was written": examples}


def _effect(shop: Workshop, make: Make) -> dict[str, Any]:
    loss, each = shop.settings["loss"], [shop.swept(make, seed) for seed in shop.seeds]
    at = [told(*equal(make)(shop, seed), shop.settings["n_boot"]) for seed in shop.seeds]
    found = pooled([(one.value, error(one)) for one in at], len(at), "")
    one_sided = [float(s.dose.at_equal_loss(loss)["effect"].iloc[0]) for s in each]
    return {
        "preference": shop.of.name,
        "steering": make.name,
        "effect": found.value,
        "interval": f"[{found.low:.2f}, {found.high:.2f}]",
        "one-sided": float(np.mean(one_sided)),
        "at c": float(np.mean([s.coeff_at(loss) for s in each])),
        "loss there": float(np.mean([np.interp(s.coeff_at(loss), s.coeffs, s.losses) for s in each])),
        "effect at 1": float(np.mean([s.method.effect.value for s in each])),
        "rho": float(np.mean([s.method.rho for s in each])),
        "loss at 1": float(np.mean([s.method.delta_nll for s in each])),
        "valid at 1": float(np.mean([min(s.method.at(c).valid for c in (-1.0, 1.0)) for s in each])),
        "parameters": each[0].method.n_parameters or 0,
    }


def _apart(shop: Workshop, make: Make, coeff: float) -> dict[str, Any]:
    each: list[Swept] = [shop.swept(make, seed) for seed in shop.seeds]
    values = [asymmetry(s, coeff, shop.settings["n_boot"]) for s in each]
    angle = float(np.mean([s.angle for s in each]))
    return {
        "preference": shop.of.name,
        "steering": make.name,
        "c": coeff,
        "angle": 2 * math.atan(coeff * math.tan(angle / 2)),
        "asymmetry": float(np.mean([one.value for one in values])),
        "seeds": ", ".join(f"{one.value:.2f}" for one in values),
    }
