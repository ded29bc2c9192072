"""The court over attributions: what a competitor says of planted cases, held against what is so.

trial = judge(plant("saturated", 0), "default")
frame(trials)        one row per trial
summary(trials)      per family, dictionary and competitor: means over seeds with their intervals
verdicts(trials)     the figures that the library's own procedure is to reach, met or missed
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mechsteer.planted.competitors import Claims, Competitor, checked, named
from mechsteer.planted.planted import SAME, Planted
from mechsteer.planted.subsets import Subsets
from mechsteer.results import Interval, Result, cluster_weights


@dataclass(frozen=True, kw_only=True)
class Trial(Result):
    """One competitor on one case. With m planted directions the first m claimed are looked at.

    `recall`: share of planted directions among them; a near-duplicate (|cosine| ≥ .9) counts as the direction
    itself, and takes no second place; what a competitor itself calls an illusion is not claimed. `decoys_in_top`: share of them that are decoys. `decoy_share`: Σ|share| (|score| where there are no shares) on
    decoys / that on all. `gap`: |1 − effect of the delta projected on them / total|. `claimed`: it did not say that
    there is nothing to attribute. `marked`: share of the illusions that it marks. `calibration`: mean
    |claimed share − Shapley share| over planted directions. What has no meaning for a case or competitor is nan.
    `seconds` it took, `total` the effect in units of the metric, `n_planted` and `learned` are the case's.
    """

    family: str
    dictionary: str
    trained: bool
    seed: int
    competitor: str
    recall: float
    decoys_in_top: float
    decoy_share: float
    gap: float
    claimed: bool
    marked: float
    calibration: float
    seconds: float
    total: float
    n_planted: int
    learned: float


MEASURES = ("recall", "decoys_in_top", "decoy_share", "gap", "claimed", "marked", "calibration", "seconds")
KEY = ("family", "dictionary", "trained", "competitor")


def judge(case: Planted, name: str, competitor: Competitor | None = None) -> Trial:
    """The trial of a competitor, a shipped one by its name. Raises what `checked` raises, and what it raises itself."""
    run = named(name) if competitor is None else competitor
    began = time.perf_counter()
    given = run(case.model, case.intervention, case.contexts, case.basis, case.metric)
    seconds = time.perf_counter() - began
    claims = checked(name, given, case.basis)
    says_something = not claims.nothing and bool((claims.scores != 0).any())
    nan = math.nan
    marked = nan
    if case.illusions:
        marked = len(set(case.illusions) & set(claims.illusions)) / len(case.illusions)
    found = {"recall": nan, "decoys_in_top": nan, "decoy_share": nan, "gap": nan, "calibration": nan}
    if not case.is_null:
        found = _held_against(case, claims) if says_something else found | {"recall": 0.0, "gap": 1.0}
    return Trial(
        family=case.family,
        dictionary=case.dictionary,
        trained=case.trained,
        seed=case.seed,
        competitor=name,
        claimed=says_something,
        marked=marked,
        seconds=seconds,
        total=case.truth.total,
        n_planted=len(case.planted),
        learned=case.learned,
        **found,
    )


def _held_against(case: Planted, claims: Claims) -> dict[str, float]:
    m, rows = len(case.planted), case.basis.directions.double()
    weights = claims.scores.double().abs()
    weights[list(claims.illusions)] = -1  # what it calls an illusion it does not claim
    sizes = weights.clamp(min=0) if claims.shares is None else claims.shares.double().abs()
    stands_for = _stands_for(rows, case.planted)
    is_decoy = _stands_for(rows, case.decoys) >= 0
    top = _first(weights, stands_for, m)
    found = {int(stands_for[i]) for i in top} - {-1}
    subsets = Subsets(case.model, case.intervention, case.contexts, case.metric, rows[list(case.planted)])
    calibration = math.nan
    if claims.shares is not None:
        claimed = torch.stack([claims.shares[stands_for == i].sum() for i in range(m)]).double()
        calibration = float((claimed - case.truth.shares).abs().mean())
    return {
        "recall": len(found) / m,
        "decoys_in_top": float(is_decoy[top].double().mean()) if case.decoys else math.nan,
        "decoy_share": float(sizes[is_decoy].sum() / sizes.sum()) if case.decoys else math.nan,
        "gap": abs(1 - subsets.span(rows[top]) / case.truth.total),
        "calibration": calibration,
    }


def _stands_for(rows: Tensor, named_rows: Sequence[int]) -> Tensor:
    """[n_dirs] which of these each direction is, or nearly is; -1: none."""
    if not named_rows:
        return torch.full((len(rows),), -1)
    cosines, which = (rows @ rows[list(named_rows)].T).abs().max(1)
    return which.where(cosines >= SAME - 1e-6, -1)


def _first(weights: Tensor, stands_for: Tensor, m: int) -> list[int]:
    """The first m directions by weight; one that stands for what another did already takes no place."""
    top: list[int] = []
    seen: set[int] = set()
    for i in weights.argsort(descending=True, stable=True).tolist():
        which = int(stands_for[i])
        if which >= 0 and which in seen:
            continue
        seen.add(which)
        top.append(i)
        if len(top) == m:
            break
    return top


def frame(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row per trial."""
    names = [field.name for field in fields(Trial)]
    return pd.DataFrame([[getattr(trial, name) for name in names] for trial in trials], columns=names)


def summary(trials: Sequence[Trial], *, seed: int = 0, n_bootstrap: int = 1000) -> pd.DataFrame:
    """Per family, dictionary, trained and competitor: n_seeds, and of every measure mean, low and high (95 %, over seeds)."""
    rows = []
    for key, group in frame(trials).groupby(list(KEY), sort=False):
        row = dict(zip(KEY, key if isinstance(key, tuple) else (key,), strict=True)) | {"n_seeds": len(group)}
        for name in MEASURES:
            interval = mean(group[name].to_numpy(float), seed=seed, n_bootstrap=n_bootstrap)
            row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def mean(values: np.ndarray, *, seed: int = 0, n_bootstrap: int = 1000) -> Interval:
    """The mean of what is not nan, with its bootstrap interval over seeds."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(value=math.nan, low=math.nan, high=math.nan)
    weights = cluster_weights(len(values), n_bootstrap, np.random.default_rng(seed)) / len(values)
    return Interval.from_draws(values.mean(), weights @ values)


@dataclass(frozen=True, kw_only=True)
class Bar(Result):
    """A figure that a procedure is to reach, and what it reached: `met` compares the mean, the interval stands beside."""

    what: str
    family: str
    dictionary: str
    wanted: float
    at_most: bool  # the figure is to be below, not above
    value: float
    low: float
    high: float
    met: bool


_RECALL = dict.fromkeys(("linear", "mixed", "relu", "and", "or", "superposed"), 0.95) | {"saturated": 0.9}


def bars(trials: Sequence[Trial], competitor: str = "default") -> list[Bar]:
    """The figures that the library's procedure is to reach, for every family and dictionary that was tried.

    Longest seconds a case: also of the competitor of this name "with nulls".
    """
    planted = [trial for trial in trials if not trial.trained]
    own = [trial for trial in planted if trial.competitor == competitor]
    found = []
    for (family, dictionary), group in _grouped(own, "family", "dictionary"):
        if family in _RECALL:
            recalls = [trial.recall for trial in group]
            found.append(_bar("recall", family, dictionary, recalls, _RECALL[family]))
        if family == "nulls":
            quiet = [1.0 - trial.claimed for trial in group]
            found.append(_bar("nothing to attribute", family, dictionary, quiet, 0.95))
        if family == "illusions":
            found.append(_bar("illusions marked", family, dictionary, [trial.marked for trial in group], 0.9))
    for (dictionary,), group in _grouped(own, "dictionary"):
        values = [trial.decoys_in_top for trial in group if not math.isnan(trial.decoys_in_top)]
        if values:
            found.append(_bar("decoys in the top m", "all", dictionary, values, 0.05, at_most=True))
    timed = [trial for trial in planted if trial.competitor in (competitor, f"{competitor} with nulls")]
    for (dictionary,), group in _grouped(timed, "dictionary"):
        longest = max(group, key=lambda trial: trial.seconds)
        values = [longest.seconds]
        found.append(_bar("longest seconds a case", longest.family, dictionary, values, 5.0, at_most=True))
    return found


def _bar(what: str, family: str, dictionary: str, values: list[float], wanted: float, *, at_most: bool = False) -> Bar:
    interval = mean(np.array(values))
    met = interval.value <= wanted if at_most else interval.value >= wanted
    names = {"what": what, "family": family, "dictionary": dictionary, "wanted": wanted, "at_most": at_most}
    return Bar(**names, value=interval.value, low=interval.low, high=interval.high, met=met)


def _grouped(trials: Sequence[Trial], *names: str) -> list[tuple[tuple[str, ...], list[Trial]]]:
    """(values of these fields, trials that have them), in the order of their coming."""
    groups: dict[tuple[str, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(tuple(getattr(trial, name) for name in names), []).append(trial)
    return list(groups.items())
