"""What was found: a finding per claim, and the tables behind them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from common import Finding, pooled
from reason_makes import Workshop
from reason_probes import transfer
from scipy.stats import spearmanr

from mechsteer.evaluation import FeatureSweep, Outcome, PairedOutcomes
from mechsteer.results import Interval
from mechsteer.studies.results import CaptureResult

Tables = dict[str, list[dict[str, Any]]]
KINDS = ("random feature", "random direction")
DRIVEN = ("token-driven", "partly token-driven")


def words(shop: Workshop) -> tuple[dict[str, Finding], Tables]:
    """Scores beside ordinary words; the best features, their class, and that of random ones."""
    scored = [shop.scored(seed) for seed in shop.seeds]
    rows, survive, driven, of_random = [], [], [], Counter[str]()
    for seed in shop.seeds:
        top = shop.top(seed, shop.settings["n_top"])
        tested = shop.falsified(seed, top)
        others = shop.falsified(seed, shop.others(seed, shop.settings["n_top"], top, "others"))
        of_random.update(others["kinds"])
        survive.append(_share(tested["kinds"], ("context-driven",)))
        driven.append(_share(tested["kinds"], DRIVEN))
        score, p_any = scored[seed]["score"], scored[seed]["p_any"]
        rows += [
            {
                "seed": seed,
                "feature": f"f{i}",
                "ReasonScore": score[i],
                "p among ordinary words": p_any[i],
                "class": kind,
                "fires on": " ".join(repr(word) for word in told),
            }
            for i, kind, told in zip(top, tested["kinds"], tested["words"], strict=True)
        ]
    n, lists = len(scored), ", ".join(f"{each['ordinary']:.3f}" for each in scored)
    best = ", ".join(f"{max(each['score']):.3f}" for each in scored)
    total = sum(of_random.values())
    random = f"random living features: context-driven {of_random['context-driven'] / total:.2f}, token-driven or partly {sum(of_random[k] for k in DRIVEN) / total:.2f}"
    kinds = Counter(row["class"] for row in rows)
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    findings = {
        "words stand out": pooled(
            [(each["p_best"], 0.0) for each in scored],
            n,
            f"the best list of ordinary words scores {lists}; the vocabulary {best}",
        ),
        "survive falsification": _told(pooled(survive, n, random), f"of {len(rows)} features: {told}"),
        "tokens drive them": pooled(driven, n, random),
    }
    return findings, {"The features that score highest": rows}


def steered(shop: Workshop) -> tuple[dict[str, Finding], Tables]:
    """The best-scoring feature amplified, beside controls; features ranked by what they do."""
    found = [_steered_once(shop, seed) for seed in shop.seeds]
    outcomes = [outcome for outcome, _, _ in found]
    n = len(found)
    gains = [_difference(each.steered) for each in outcomes]
    lengths = [_relative(each.steered) for each in outcomes]
    net_of = {kind: [_mean(each, kind, _net) for each in outcomes] for kind in KINDS}
    length_of = {kind: [_mean(each, kind, lambda o: _relative(o)[0]) for each in outcomes] for kind in KINDS}
    stronger = [max(net_of[kind][i] for kind in KINDS) for i in range(n)]
    lengthier = [max(length_of[kind][i] for kind in KINDS) for i in range(n)]
    swept = [(sweep, correlation) for _, sweep, correlation in found]
    better = [
        _less(sweep.test.difference, outcome.steered) for outcome, (sweep, _) in zip(outcomes, swept, strict=True)
    ]
    p_nets = ", ".join(f"{min(each.p_value(kind) for kind in KINDS):.3f}" for each in outcomes)
    controls = "; ".join(f"{kind}s {_listed(net_of[kind])}" for kind in KINDS)
    longer = "; ".join(f"{kind}s {_listed(length_of[kind])}" for kind in KINDS)
    findings = {
        "steering helps": pooled(gains, n, f"mean accuracy change of {controls}"),
        "more than random": _told(
            pooled(
                [(gain - null, error) for (gain, error), null in zip(gains, stronger, strict=True)],
                n,
                f"mean of {controls}",
            ),
            f"p of the lower kind of control, seed by seed: {p_nets}",
        ),
        "longer": pooled(lengths, n, f"mean relative change of length of {longer}"),
        "longer than random": pooled(
            [(own - null, error) for (own, error), null in zip(lengths, lengthier, strict=True)], n, f"mean of {longer}"
        ),
        "score predicts effect": pooled(
            [(r, 1 / math.sqrt(len(sweep.tried) - 3)) for sweep, r in swept], n, "no relation: 0"
        ),
        "outcome chooses better": pooled(better, n, "the feature with the highest score: 0"),
    }
    rows = [_row(shop, seed, *found[seed]) for seed in shop.seeds]
    ranked = [
        {
            "seed": seed,
            "feature": f"f{row.feature}",
            "ReasonScore": shop.scored(seed)["score"][row.feature],
            "accuracy on dev": row.score,
            "change": row.difference,
        }
        for seed in shop.seeds
        for row in swept[seed][0].tried
    ]
    return findings, {"The best-scoring feature amplified": rows, "Features by what they do": ranked}


def _steered_once(shop: Workshop, seed: int) -> tuple[PairedOutcomes, FeatureSweep, float]:
    top = shop.top(seed, shop.settings["n_candidates"])
    outcome = shop.outcomes(seed, top[0], shop.strength(seed, top[0]))
    sweep = shop.sweep(seed, [*top, *shop.others(seed, shop.settings["n_candidates"], top, "candidates")])
    score = shop.scored(seed)["score"]
    ranks = spearmanr([score[row.feature] for row in sweep.tried], [row.score for row in sweep.tried])
    return outcome, sweep, float(ranks.statistic)  # pyright: ignore[reportAttributeAccessIssue]


def _row(shop: Workshop, seed: int, outcome: PairedOutcomes, sweep: FeatureSweep, correlation: float) -> dict[str, Any]:
    feature, own = shop.top(seed, 1)[0], outcome.steered
    assert own.comparison is not None
    return {
        "seed": seed,
        "feature": f"f{feature}",
        "γ": shop.strength(seed, feature),
        "base": own.comparison.base_rate,
        "steered": own.comparison.treated_rate,
        "success": own.success,
        "failure": own.failure,
        "McNemar p": own.comparison.p_value,
        "length": _relative(own)[0],
        **{f"p, {kind}s": outcome.p_value(kind) for kind in KINDS},
        **{f"p of length, {kind}s": outcome.p_length(kind) for kind in KINDS},
        "best by outcome": f"f{sweep.best.feature}",
        "its test accuracy": sweep.test_score,
        "rank correlation": correlation,
    }


def layers(shop: Workshop) -> tuple[dict[str, Finding], Tables]:
    """The highest ReasonScore of every layer."""
    scored = {site: [shop.scored(seed, site) for seed in shop.seeds] for site in shop.sites}
    rows = [
        {
            "site": str(site),
            "highest ReasonScore": float(np.mean([max(each["score"]) for each in found])),
            "highest of ordinary words": float(np.mean([each["ordinary"] for each in found])),
            "p of the best": float(np.mean([each["p_best"] for each in found])),
            "FVU": float(np.mean([each["fvu"] for each in found])),
            "dead features": float(np.mean([each["dead_share"] for each in found])),
        }
        for site, found in scored.items()
    ]
    half = len(shop.sites) // 2
    best = np.array([[max(each["score"]) for each in found] for found in scored.values()])  # [layer seed]
    values = [(float(value), 0.0) for value in best[-half:].mean(0) - best[:half].mean(0)]
    null = "ordinary words, later − earlier: {:.4f}".format(
        np.mean([row["highest of ordinary words"] for row in rows[-half:]])
        - np.mean([row["highest of ordinary words"] for row in rows[:half]])
    )
    return {"deeper layers": pooled(values, len(shop.seeds), null)}, {"Scores over layers": rows}


def probes(shop: Workshop, capture: CaptureResult) -> tuple[dict[str, Finding], Tables]:
    """Probes out of distribution."""
    found = [transfer(shop, capture, seed) for seed in shop.seeds]
    rows = [
        {
            "seed": seed,
            "probe of": name,
            "one and two steps, held out": each["within"][name],
            "three and four": each["far"][name],
        }
        for seed, each in zip(shop.seeds, found, strict=True)
        for name in each["far"]
    ]
    finding = pooled(
        [(each["difference"], each["error"]) for each in found],
        len(found),
        f"the residual stream's probe: {found[0]['far']['residual']:.3f}; the length alone: {found[0]['far']['length']:.3f}",
    )
    return {"probes transfer": finding}, {"Probes of right and wrong, trained on one and two steps": rows}


def _told(finding: Finding, told: str) -> Finding:
    return Finding(
        value=finding.value, low=finding.low, high=finding.high, n_seeds=finding.n_seeds, null=finding.null, words=told
    )


def _share(kinds: Sequence[str], wanted: Sequence[str]) -> tuple[float, float]:
    share = sum(kind in wanted for kind in kinds) / len(kinds)
    return share, math.sqrt(share * (1 - share) / len(kinds))


def _difference(outcome: Outcome) -> tuple[float, float]:
    assert outcome.comparison is not None
    return outcome.comparison.difference.value, _error(outcome.comparison.difference)


def _net(outcome: Outcome) -> float:
    return outcome.net


def _relative(outcome: Outcome) -> tuple[float, float]:
    """Change of length as a share of base's."""
    return outcome.lengths.difference.value / outcome.base_length, _error(
        outcome.lengths.difference
    ) / outcome.base_length


def _less(best: Interval, own: Outcome) -> tuple[float, float]:
    """Both against base on the same problems; errors as if they were independent."""
    value, error = _difference(own)
    return best.value - value, math.hypot(_error(best), error)


def _error(value: Interval) -> float:
    return (value.high - value.low) / 3.92


def _mean(outcomes: PairedOutcomes, kind: str, of: Any) -> float:
    return float(np.mean([of(control) for control in outcomes.controls if control.name.startswith(kind)]))


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
