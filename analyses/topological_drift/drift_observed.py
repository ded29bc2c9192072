"""What the shape of traces says about right answers, at which layer, how early, and which cheap signal ranks them as it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import Cells
from numpy import ndarray
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.evaluation import EarlyDetection, TopologyOverLayers, early_detection, topology_over_layers
from mechsteer.evaluation.trajectories import TrajectoryEffect, rank_correlation, trajectory_topology
from mechsteer.models.sites import Site
from mechsteer.probes import partial_effect
from mechsteer.results import Interval, Result, cluster_weights
from mechsteer.signals import Coherence, Signal, StepEntropy, Variance, WindowedH0
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.measure import covariates, judged
from mechsteer.studies.results import CaptureResult
from mechsteer.tasks import Trace

N_PERMUTATIONS = 19  # the p-values are not what decides
N_SPLITS = 5
EXACT = "h0_entropy"


@dataclass(frozen=True, kw_only=True)
class SignalRank(Result):
    """A signal's mean over a trace (full windows alone) beside that of exact windowed H0 entropy."""

    name: str
    correlation: Interval
    """Spearman's, over traces; problems resampled"""
    effect: Interval | None
    """log-odds of a right answer per standard deviation, beside length and token limit"""


@dataclass(frozen=True, kw_only=True)
class Observed(Result):
    """Traces of one model, by whether they are right."""

    model: str
    site: str
    n_right: int
    n_wrong: int
    layers: TopologyOverLayers
    strict: tuple[TrajectoryEffect, ...]
    """at the site, beside all that the text says"""
    whole: tuple[EarlyDetection, ...]
    """per layer, of whole traces"""
    early: EarlyDetection | None
    """at the site; None where traces are too few"""
    signals: tuple[SignalRank, ...]

    def effects(self) -> Mapping[str, TrajectoryEffect]:
        """At the site, beside length and token limit, by name."""
        (here,) = (each for each in self.layers.layers if each.site == self.site)
        return {effect.name: effect for effect in here.effects}

    def at_site(self) -> EarlyDetection:
        """Whole traces, at the site."""
        return next(each for each in self.whole if each.site == self.site)


def observed(
    desk: Desk, kept: Kept, capture: CaptureResult, settings: Mapping[str, Any], cells: Cells, name: str
) -> Observed:
    """All of it for the traces of a study, computed once."""
    used = ("layer", "n_points", "n_boot", "n_traces", "n_solutions", "preset", "data", "solutions")
    key = {"observed": desk.fingerprint, "name": name, **{each: settings[each] for each in used}}

    def compute() -> dict[str, Any]:
        site = Site(float(settings["layer"]), "resid_post").at(desk.model)
        known = {at: judged(kept, capture, at) for at in capture.sites}
        traces = known[site][0]
        of = _Labels(desk, traces, settings)
        acts = {at: each for at, (_, each) in known.items()}
        return Observed(
            model=name,
            site=str(site),
            n_right=sum(of.correct),
            n_wrong=len(traces) - sum(of.correct),
            layers=topology_over_layers(acts, of.correct, of.groups, **of.how),
            strict=of.strict(acts[site], traces, str(site)),
            whole=tuple(of.detected(each, str(at), (1.0,)) for at, each in acts.items()),
            early=_or_none(of, acts[site], str(site)),
            signals=signal_ranks(acts[site], of.correct, of.groups, settings, limit=of.how["limit"]),
        ).to_dict()

    return Observed.from_dict(cells.of(key, compute))


class _Labels:
    """What all parts of an observation are asked with."""

    def __init__(self, desk: Desk, traces: Sequence[Trace], settings: Mapping[str, Any]) -> None:
        self.correct, self.groups = [bool(t.correct) for t in traces], [t.group for t in traces]
        self.how = {"n_points": settings["n_points"], "limit": desk.settings.max_new_tokens}
        self.drawn = {"n_boot": settings["n_boot"], "seed": desk.seed("topological drift")}
        self.window = max(4, settings["n_points"] // 2)

    def strict(self, acts: Sequence[Tensor], traces: Sequence[Trace], site: str) -> tuple[TrajectoryEffect, ...]:
        styles = [t.style for t in traces]
        more: dict[str, Any] = {"covariates": covariates(traces), "styles": styles}
        return trajectory_topology(acts, self.correct, self.groups, site=site, **self.how, **more).effects

    def detected(self, acts: Sequence[Tensor], site: str, shares: Sequence[float]) -> EarlyDetection:
        how = {"window": self.window, "n_splits": N_SPLITS, "n_permutations": N_PERMUTATIONS, **self.drawn}
        return early_detection(acts, self.correct, self.groups, site=site, shares=shares, **how)


def _or_none(of: _Labels, acts: Sequence[Tensor], site: str) -> EarlyDetection | None:
    try:
        return of.detected(acts, site, (0.25, 0.5, 0.75, 1.0))
    except DataError:
        return None


def signal_ranks(
    acts: Sequence[Tensor], correct: Sequence[bool], groups: Sequence[str], settings: Mapping[str, Any], *, limit: int
) -> tuple[SignalRank, ...]:
    """Coherence, variance and the entropy of step lengths beside exact H0 entropy, all over windows of `n_points`."""
    window = settings["n_points"]
    kept = [i for i, points in enumerate(acts) if len(points) >= window]
    signals: list[Signal] = [Coherence(window), Variance(window), StepEntropy(window), WindowedH0(window)]
    values = {s.name: np.array([_mean(s, acts[i], window) for i in kept]) for s in signals}
    labels, named = np.array([correct[i] for i in kept]), np.array([groups[i] for i in kept])
    lengths = np.array([len(acts[i]) for i in kept], dtype=float)
    beside = {"length": lengths, "token limit": (lengths >= limit - 1).astype(float)}
    clusters = np.unique(named, return_inverse=True)[1]
    weights = cluster_weights(int(clusters.max()) + 1, settings["n_boot"], np.random.default_rng(0))

    def correlation(of: ndarray) -> Interval:
        rows = [np.repeat(np.arange(len(of)), weight[clusters]) for weight in weights]
        draws = np.array([rank_correlation(of[drawn], values[EXACT][drawn]) for drawn in rows])
        return Interval.from_draws(rank_correlation(of, values[EXACT]), draws)

    def effect(of: ndarray) -> Interval | None:
        try:
            return partial_effect(of, labels, beside, named).effect
        except DataError:
            return None

    return tuple(SignalRank(name=name, correlation=correlation(of), effect=effect(of)) for name, of in values.items())


def _mean(signal: Signal, points: Tensor, window: int) -> float:
    with torch.no_grad():
        return float(signal(points[None])[0][0, window - 1 :].mean())
