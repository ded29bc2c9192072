"""Accuracy: every kind at the strength that dev chose and at equal divergence; how much data; transfer; chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from booster_makes import Make, Workshop
from common import Finding, interval
from scipy.stats import binomtest

from mechsteer.evaluation import Scored, pool_seeds
from mechsteer.evaluation.best_of import best_of, seems_to_help
from mechsteer.steering.presets import at_parameters

NEARLY_NOTHING = 0.005  # nats: a random vector that changes next to nothing
OPERATION = "multiplication"
CONTROLS = ("shuffled router", "magnitude only")
BOOSTERS = ("drab of equal size", "drab", "hybrid", "dictionary", "gated")

Tables = dict[str, list[dict[str, Any]]]


def makes(shop: Workshop) -> dict[str, Make]:
    """All kinds; those "of equal size" have about as many parameters as bias_only."""
    s, d = shop.settings, shop.model.cfg.d_model
    n = shop.model.cfg.n_layers * d
    sized: dict[str, tuple[str, dict[str, Any]]] = {
        "bias_only": ("bias_only", {}),
        "static": ("static", {}),
        "drab of equal size": ("drab", {"d_hidden": max(1, round((n - d) / (2 * d + 1)))}),
        "loreft of equal size": ("loreft", {"rank": at_parameters("loreft", n, d).rank}),
        "clas of equal size": (
            "clas",
            {"n_layers": min(at_parameters("clas", n, d).n_layers, shop.model.cfg.n_layers)},
        ),
        "drab": ("drab", {"d_hidden": s["d_hidden"]}),
        "hybrid": ("drab", {"d_hidden": s["d_hidden"], "form": "hybrid"}),
        # the answer was computed with routers that read activations as they are; the default has been "rms" since
        "dictionary": ("dictionary", {"n_atoms": s["n_atoms"], "normalise": "none"}),
        "gated": ("gated", {"d_hidden": s["d_hidden"]}),
    }
    return {
        name: Make(name=name, kind=kind, args=args, n_samples=s["n_samples"]) for name, (kind, args) in sized.items()
    }


def strengths(shop: Workshop, every: Mapping[str, Make]) -> dict[str, Any]:
    """{"chosen": name -> what dev chose per seed, "equal": name -> coefficients of equal divergence, "kl": that}."""
    names, seeds = zip(*itertools.product(every, shop.seeds), strict=True)
    made = [every[name] for name in names]
    shop.each(shop.trained, made, seeds)
    chosen = dict(zip(zip(names, seeds, strict=True), shop.each(shop.chosen, made, seeds), strict=True))
    target = float(np.mean([chosen["bias_only", i]["kl"] for i in shop.seeds]))
    equal = shop.each(shop.at_kl, made, seeds, [target] * len(made))
    at = dict(zip(zip(names, seeds, strict=True), equal, strict=True))
    return {
        "chosen": {name: [chosen[name, i] for i in shop.seeds] for name in every},
        "equal": {name: [at[name, i] for i in shop.seeds] for name in every},
        "kl": target,
    }


def accuracies(
    shop: Workshop, every: Mapping[str, Make], coeffs: Mapping[str, Any]
) -> tuple[dict[str, Finding], Tables]:
    """Findings of all claims about accuracy, and the tables behind them."""
    base, s = shop.base(), shop.settings
    equal = {name: _scored(shop, make, coeffs["equal"][name]) for name, make in every.items()}
    own = {name: _scored(shop, make, [c["coeff"] for c in coeffs["chosen"][name]]) for name, make in every.items()}
    sizes = {n: _chosen(shop, replace(every["drab"], n_samples=n)) for n in sorted({*s["sizes"], s["n_samples"]})}
    few, many = min(s["sizes"]), max(s["sizes"])
    found = {
        "dynamic beats static": pooled(equal["bias_only"], equal["drab of equal size"], "bias_only"),
        "hybrid helps": pooled(equal["drab"], equal["hybrid"], "add"),
        "mixtures help": pooled(equal["drab"], equal["dictionary"], "drab"),
        "boosters beat rivals": _beside_clas(equal),
        "fifty samples": pooled(sizes[many], sizes[few], f"trained on {many} samples"),
        "longer problems": _transferred(shop, replace(every["drab"], takes="short"), "long"),
        "left-out operation": _transferred(
            shop, replace(every["drab"], takes=f"without {OPERATION}"), f"with {OPERATION}"
        ),
        "most adapters help": _helped(shop, base, [each for scores in own.values() for each in scores]),
    }
    table = [
        {
            "adapter": name,
            "parameters": shop.n_parameters(make),
            "at equal KL": _mean(equal[name]),
            "more than base": _more(base, equal[name]),
            "at the strength dev chose": _mean(own[name]),
            "KL, so": float(np.mean([c["kl"] for c in coeffs["chosen"][name]])),
            "more than base, so": _more(base, own[name]),
        }
        for name, make in every.items()
    ]
    controls = [
        {"control of the dictionary": kind, "accuracy": _mean(of), "more than base": _more(base, of)}
        for kind, of in (
            (kind, _controlled(shop, every["dictionary"], coeffs["equal"]["dictionary"], kind)) for kind in CONTROLS
        )
    ]
    drab = [{"samples": n, "accuracy": _mean(of), "more than base": _more(base, of)} for n, of in sizes.items()]
    title = f"Accuracy on held-out problems (base {base.score:.3f}; equal KL is {coeffs['kl']:.3f} nats)"
    return found, {
        title: table,
        "drab by the number of its samples": drab,
        "Controls, at the dictionary's coefficient of equal KL": controls,
    }


def pooled(before: Sequence[Scored], after: Sequence[Scored], null: str) -> Finding:
    """after − before over seeds and problems; not defined where one of them could not be set to its strength."""
    if not before or not after:
        return Finding(value=math.nan, low=math.nan, high=math.nan, n_seeds=0, null=null)
    mean = pool_seeds(before, after).mean
    words = f"{_mean(after):.3f} against {_mean(before):.3f}"
    return Finding(value=mean.value, low=mean.low, high=mean.high, n_seeds=len(after), null=f"{null}: 0", words=words)


def _beside_clas(equal: Mapping[str, Sequence[Scored]]) -> Finding:
    """drab − LoReFT, which decides, and in words drab − CLAS."""
    ours, theirs = equal["drab of equal size"], equal["clas of equal size"]
    found, other = pooled(equal["loreft of equal size"], ours, "LoReFT"), pooled(theirs, ours, "CLAS")
    told = interval(other) if theirs and ours else "not defined"
    return replace(found, words=f"{found.words}; less CLAS: {told}")


def _scored(shop: Workshop, make: Make, coeffs: Sequence[float], takes: str = "all") -> list[Scored]:
    """Per seed; none where a strength is not defined."""
    if not all(map(math.isfinite, coeffs)):
        return []
    n = len(coeffs)
    return shop.each(shop.scored, [make] * n, list(shop.seeds), list(coeffs), [takes] * n)


def _controlled(shop: Workshop, make: Make, coeffs: Sequence[float], kind: str) -> list[Scored]:
    """A control of each seed's adapter; none where a strength is not defined."""
    if not all(map(math.isfinite, coeffs)):
        return []
    n = len(coeffs)
    return shop.each(shop.control, [make] * n, list(shop.seeds), list(coeffs), [kind] * n)


def _chosen(shop: Workshop, make: Make, takes: str = "all") -> list[Scored]:
    """Trained, at the strength that dev chose, scored."""
    made = [make] * len(shop.seeds)
    shop.each(shop.trained, made, list(shop.seeds))
    return _scored(shop, make, [c["coeff"] for c in shop.each(shop.chosen, made, list(shop.seeds))], takes)


def _transferred(shop: Workshop, make: Make, takes: str) -> Finding:
    """Trained and chosen on some problems, scored on others."""
    if min(len(shop.samples("train", make.takes, 8)), len(shop.items(takes))) < 8:
        return Finding(value=math.nan, low=math.nan, high=math.nan, n_seeds=0, null="the data do not tell these apart")
    after = _chosen(shop, make, takes)
    return pooled([shop.base(takes)] * len(after), after, "base")


def _helped(shop: Workshop, base: Scored, scores: Sequence[Scored]) -> Finding:
    """The share above base, beside the best of several vectors that change next to nothing."""
    n = shop.settings["n_tries"]
    vectors = shop.each(shop.vector, list(range(n)), [NEARLY_NOTHING] * n)
    differences = [vector.score - base.score for vector in vectors]
    changed = float(np.mean([(vector.scores != base.scores).mean() for vector in vectors]))
    helped = [score.score > base.score for score in scores]
    low, high = binomtest(sum(helped), len(helped)).proportion_ci()
    told = [
        f"best of {k}: {best_of(differences, k):.2f} (expected {seems_to_help(len(base.scores), changed, k):.2f})"
        for k in (1, 3, 5)
        if k <= n
    ]
    return Finding(
        value=float(np.mean(helped)),
        low=low,
        high=high,
        n_seeds=len(shop.seeds),
        null="random vectors at KL .005, looked at on the test problems, " + ", ".join(told),
        words=f"{sum(helped)} of {len(helped)} adapters of {len(helped) // len(shop.seeds)} kinds",
    )


def _mean(scores: Sequence[Scored]) -> float:
    return float(np.mean([each.score for each in scores])) if scores else math.nan


def _more(base: Scored, scores: Sequence[Scored]) -> str:
    return interval(pooled([base] * len(scores), scores, "")) if scores else "not defined"
