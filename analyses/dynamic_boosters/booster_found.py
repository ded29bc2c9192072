"""What is read off the adapters, over seeds: quiet tokens, moving weights, harm, atoms and tasks, few directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from booster_makes import Make, Workshop
from booster_readings import TASKS, moved, quiet, universal
from booster_scores import Tables
from common import Finding, pooled
from scipy.stats import t as student

from mechsteer import pocket
from mechsteer.attribution import EffectAttribution, attribute_effect
from mechsteer.bases import Basis, from_sae, singular
from mechsteer.errors import DataError
from mechsteer.studies.contexts import contexts

PASSAGE = 400  # characters of a neutral text


def over_seeds(values: Sequence[float], null: str, words: str = "") -> Finding:
    """Mean over seeds with Student's interval; not defined where a value is not."""
    n, mean = len(values), float(np.mean(values))
    half = float(student.isf(0.025, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Finding(value=mean, low=mean - half, high=mean + half, n_seeds=n, null=null, words=words)


def neutral_texts(path: str, n: int) -> list[str]:
    """Passages of a text file; of the bundled statements without one. Raises DataError for a file without so many."""
    if not path:
        return [f"{a} {b}" for a, b in pocket.contrast_pairs("happy", n, seed=1)]
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", "neutral is a text file, such as WikiText's wiki.test.raw"
        ) from error
    passages = [line[:PASSAGE] for line in lines if len(line) >= PASSAGE]
    if len(passages) < n:
        raise DataError(f"{path} has {len(passages)} lines of {PASSAGE} characters", f"give a file with {n}")
    return passages[:n]


def readings(shop: Workshop, every: Mapping[str, Make], coeffs: Mapping[str, Any]) -> tuple[dict[str, Finding], Tables]:
    """Findings of all claims about what adapters do where, and the tables behind them."""
    s, seeds = shop.settings, list(shop.seeds)
    texts = neutral_texts(s["neutral"], s["n_neutral"])
    equal, drab, mixture = coeffs["equal"], every["drab"], every["dictionary"]

    def of(function: Callable[[int], Any]) -> list[Any]:
        return shop.each(function, seeds)

    def loss(make: Make | None, coeff: Sequence[float], everywhere: bool) -> list[float]:
        return of(lambda i: shop.neutral(make, i, coeff[i], texts, everywhere=everywhere))

    base = shop.neutral(None, 0, 0.0, texts, everywhere=False)
    soft = {
        name: loss(every[name], equal[name], True) for name in ("bias_only", "drab", "hybrid", "dictionary", "gated")
    }
    trained = loss(drab, [c["coeff"] for c in coeffs["chosen"]["drab"]], False)
    still = of(lambda i: shop.read(quiet, mixture, i, equal["dictionary"][i], texts))
    weights = of(lambda i: shop.read(moved, mixture, i))
    args = {**mixture.args, "n_atoms": s["universal_atoms"]}
    one = Make(name="universal", kind="dictionary", args=args, n_samples=s["n_universal"])
    atoms = of(lambda i: shop.read(universal, one, i, s["universal_rates"], s["universal_epochs"]))
    found = {
        "quiet": over_seeds([r["neutral"] / r["traces"] for r in still], "a static vector: 1"),
        "weights move": over_seeds(
            [r["conclusion"] - r["within"] for r in weights],
            f"between halves of the working: {np.mean([r['within'] for r in weights]):.3f}",
        ),
        "fails softer": over_seeds(list(np.subtract(soft["drab"], soft["dictionary"])), "no difference: 0"),
        "no harm": over_seeds([value - base for value in trained], "the model as it is: 0"),
        "atoms have tasks": over_seeds(
            [r["named"] - r["named untrained"] for r in atoms],
            f"an untrained router: {np.mean([r['named untrained'] for r in atoms]):.3f}",
            f"trained: {np.mean([r['named'] for r in atoms]):.3f}; by chance 1 in {len(TASKS)}",
        ),
    }
    harm = [{"adapter": "the model as it is", "loss everywhere": base}]
    harm += [{"adapter": name, "loss everywhere": float(np.mean(values))} for name, values in soft.items()]
    first = atoms[0]["losses"]
    told = [{"steering": name, **by_task} for name, by_task in first.items()]
    mean = [{"task": task, **{f"atom {k}": v for k, v in enumerate(w)}} for task, w in atoms[0]["weights"].items()]
    return found, {
        "Loss on neutral text, nats per token, at the same divergence": harm,
        "Which atom works on which task: loss per token of the first seed's universal dictionary": told,
        "Its mean weights": mean,
    }


def attributed(shop: Workshop, make: Make, coeffs: Sequence[float], site: Any) -> tuple[dict[str, Finding], Tables]:
    """The effect of the best booster in SAE features and in what the map below writes, beside meaningless bases."""
    s = shop.settings
    layer = int(shop.site.layer)
    bases: dict[str, Basis] = {
        "few features carry it": from_sae(shop.kept.sae(site)),
        "few singular directions": singular(shop.model, maps="down", layers=[layer], side="left"),
    }
    seen, found, rows = contexts(shop.desk, shop.kept, shop.problems, s["n_contexts"]), {}, []
    for claim, basis in bases.items():
        more, nulls = [], []
        for i in shop.seeds:

            def attribution(i: int = i, basis: Basis = basis) -> dict[str, Any]:
                steering = shop.trained(make, i).with_coeff(coeffs[i])
                options = {"k": sorted({1, 4, s["k"]}), "groups": seen.groups, "nulls": s["nulls"]}
                options |= {"nulls_run": min(20, s["nulls"]), "progress": True}
                return attribute_effect(shop.model, steering, seen.prompts, basis, seen.metric, **options).to_dict()

            key = {"attributed": claim, "n": s["n_contexts"], "k": s["k"], "nulls": s["nulls"], "coeff": coeffs[i]}
            made = EffectAttribution.from_dict(shop.cell(make, i, key, attribution))
            if made.nothing_to_attribute:
                continue
            row = made.check.set_index("k").loc[s["k"]]
            more.append((float(row["beyond_null"]), float(row["beyond_null_high"] - row["beyond_null_low"]) / 3.92))
            nulls.append(float(row["null_sufficiency"]))
            rows.append(
                {"basis": claim, "seed": i, "sufficiency": float(row["sufficiency"]), "meaningless bases": nulls[-1]}
            )
        found[claim] = pooled(
            more, len(more), f"{make.name}; meaningless bases recover {', '.join(f'{v:.2f}' for v in nulls)}"
        )
    return found, {f"Attribution of {make.name}, first {s['k']} directions": rows}
