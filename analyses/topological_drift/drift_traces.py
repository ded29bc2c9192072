"""What was found of traces: a finding per claim about right and wrong answers, and the tables behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from common import Finding
from drift_observed import Observed

from mechsteer.evaluation import EarlyDetection
from mechsteer.evaluation.trajectories import TrajectoryEffect
from mechsteer.results import Interval

Tables = dict[str, list[dict[str, Any]]]
Findings = dict[str, Finding]

RAW, MATCHED = "raw H0 entropy", "H0 entropy at matched length"
LOOPS = "H1 total persistence at matched length"
HALF = 0.5


def none(null: str) -> Finding:
    """Nothing that could be measured, and why."""
    return Finding(value=math.nan, low=math.nan, high=math.nan, n_seeds=0, null=null)


def of_interval(value: Interval | None, null: str, words: str = "") -> Finding:
    """An interval over problems; not defined without one."""
    if value is None:
        return none("not defined")
    return Finding(value=value.value, low=value.low, high=value.high, n_seeds=1, null=null, words=words)


def traces(own: Observed, other: Observed | None, solutions: Observed | None) -> tuple[Findings, Tables]:
    """Of the student's traces; the teacher's in words; what others wrote is a claim of its own."""
    seen = [each for each in (own, other, solutions) if each is not None]
    alone, beside = own.effects()["length alone"].alone, "no relation: 0"
    length = f"length: {alone}"
    at_site = own.at_site().shares[-1]
    findings = {
        "low entropy is right": of_interval(_effect(own, RAW, "alone"), length, _words(seen, RAW, "alone")),
        "beyond length": of_interval(_effect(own, MATCHED), beside, _words(seen, MATCHED)),
        "any summary": of_interval(at_site.beyond, f"length alone: AUROC {at_site.length_within}", _beyond(seen)),
        "more loops when wrong": of_interval(_effect(own, LOOPS), beside, _words(seen, LOOPS)),
        "drift by cosine": of_interval(_signal(own, "coherence").effect, beside),
        "deeper layers": deeper(own, [] if other is None else [other]),
        "early": early(own, other),
        "step entropy ranks": of_interval(
            _signal(own, "step_entropy").correlation, "no relation: 0", _ranks(seen, "step_entropy")
        ),
        "cosine ranks": of_interval(_signal(own, "coherence").correlation, "no relation: 0", _ranks(seen, "coherence")),
        "in solutions": _in_solutions(solutions),
    }
    tables = {
        "What the shape says of right answers, log-odds per standard deviation": [
            row for each in seen for row in _effects(each)
        ],
        "Over layers": [row for each in seen for row in _layers(each)],
        "How early: AUROC": [row for each in seen for row in _shares(each)],
        "Signals beside exact windowed H0 entropy": [
            {
                "model": each.model,
                "signal": s.name,
                "Spearman": str(s.correlation),
                "right answers, beside length": str(s.effect),
            }
            for each in seen
            for s in each.signals
        ],
    }
    return findings, tables


def _in_solutions(seen: Observed | None) -> Finding:
    if seen is None:
        return none("no file was given: solutions=PATH solutions_model=FOLDER")
    raw, length = _effect(seen, RAW, "alone"), seen.effects()["length alone"].alone
    told = f"{seen.n_right} right, {seen.n_wrong} wrong, read by {seen.model}; raw entropy alone {raw}"
    return of_interval(_effect(seen, MATCHED), f"length: {length}", told)


def deeper(own: Observed, others: Sequence[Observed]) -> Finding:
    """Later half of the layers less the earlier, of the AUROC within problems; errors as if they were independent."""
    value, error = _later_less_earlier(own.whole)
    told = [f"{each.model}: {_later_less_earlier(each.whole)[0]:.3f}" for each in others]
    low, high = value - 1.96 * error, value + 1.96 * error
    return Finding(value=value, low=low, high=high, n_seeds=1, null="no difference: 0", words="; ".join(told))


def early(own: Observed, other: Observed | None) -> Finding:
    """What the shape of the first half says beyond length."""
    if own.early is None:
        return none("too few traces are long enough")
    share = next(each for each in own.early.shares if each.share == HALF)
    told = f"after half: shape {share.shape_within}, length {share.length_within}"
    if other is not None and other.early is not None:
        there = next(each for each in other.early.shares if each.share == HALF)
        told += f"; {other.model}: beyond length {there.beyond}"
    return of_interval(share.beyond, f"length so far: AUROC {share.length_within}", told)


def _later_less_earlier(whole: Sequence[EarlyDetection]) -> tuple[float, float]:
    scores = [each.shares[-1].shape_within for each in whole]
    half = len(scores) // 2
    values, errors = np.array([s.value for s in scores]), np.array([(s.high - s.low) / 3.92 for s in scores])
    later, earlier = slice(len(scores) - half, None), slice(half)
    return float(values[later].mean() - values[earlier].mean()), float(
        math.hypot(errors[later].mean(), errors[earlier].mean())
    )


def _effect(seen: Observed, name: str, which: str = "beside_text") -> Interval | None:
    return getattr(seen.effects()[name], which)


def _signal(seen: Observed, name: str) -> Any:
    return next(each for each in seen.signals if each.name == name)


def _words(seen: Sequence[Observed], name: str, which: str = "beside_text") -> str:
    """The same of other models; within problems; beside all that the text says."""
    told = [f"{each.model}: {_effect(each, name, which)}" for each in seen[1:]]
    own, strict = seen[0].effects()[name], next(each for each in seen[0].strict if each.name == name)
    told.append(f"within problems {own.within_problems}")
    told.append(f"beside all that the text says {strict.beside_text}")
    return "; ".join(told)


def _beyond(seen: Sequence[Observed]) -> str:
    return "; ".join(f"{each.model}: {each.at_site().shares[-1].beyond}" for each in seen[1:])


def _ranks(seen: Sequence[Observed], name: str) -> str:
    return "; ".join(f"{each.model}: {_signal(each, name).correlation}" for each in seen[1:])


def _effects(seen: Observed) -> list[dict[str, Any]]:
    strict = {each.name: each for each in seen.strict}

    def row(effect: TrajectoryEffect) -> dict[str, Any]:
        return {
            "model": seen.model,
            "summary": effect.name,
            "alone": str(effect.alone),
            "beside length and limit": str(effect.beside_text),
            "within problems": str(effect.within_problems),
            "beside all the text says": str(strict[effect.name].beside_text),
        }

    return [row(effect) for effect in seen.effects().values()]


def _layers(seen: Observed) -> list[dict[str, Any]]:
    rows = []
    for layer, whole in zip(seen.layers.layers, seen.whole, strict=True):
        effects = {effect.name: effect for effect in layer.effects}
        rows.append(
            {
                "model": seen.model,
                "site": layer.site,
                "raw entropy with length, Spearman": layer.raw_rank_correlation,
                "H0 entropy, matched (nats)": layer.means["h0_entropy_nats"],
                "effect of it": str(effects[MATCHED].beside_text),
                "effect of H1": str(effects[LOOPS].beside_text),
                "beyond, all at once": any(each.beyond for each in effects.values()),
                "AUROC within problems": str(whole.shares[-1].shape_within),
                "of length": str(whole.shares[-1].length_within),
            }
        )
    return rows


def _shares(seen: Observed) -> list[dict[str, Any]]:
    return [
        {
            "model": seen.model,
            "share": each.share,
            "tokens": each.mean_tokens,
            "shape": str(each.shape_within),
            "length": str(each.length_within),
            "beyond length": str(each.beyond),
        }
        for each in (() if seen.early is None else seen.early.shares)
    ]
