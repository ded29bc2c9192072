"""Stages probe and topology: what tells right from wrong traces, beside what needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.evaluation.trajectories import TrajectoryTopology, trajectory_topology
from mechsteer.models.sites import Site
from mechsteer.probes import LinearProbe, TokenCounts, evaluate_probe
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.results import CaptureResult, ProbeResult, SiteResult, TopologyResult, TracesResult
from mechsteer.tasks import Trace, equation_counts
from mechsteer.topology import TopologySummary, resample, summarize

POOLING = "mean over the tokens of each trace, its prompt left out,"


def judged(kept: Kept, capture: CaptureResult, site: Site) -> tuple[list[Trace], list[Tensor]]:
    """Training traces with a verdict and a text, and their activations at the site."""
    pairs = zip(kept.traces("train"), kept.responses(capture, site), strict=True)
    usable = [(trace, acts) for trace, acts in pairs if trace.correct is not None and len(acts)]
    return [trace for trace, _ in usable], [acts for _, acts in usable]


def probe(desk: Desk, traces: TracesResult, capture: CaptureResult, site: SiteResult) -> ProbeResult:
    """Right or wrong from the mean state of what the model wrote, beside all that the text itself says."""
    try:
        return _probe(desk, site.site, *judged(Kept(desk), capture, site.site))
    except DataError as error:
        return ProbeResult(site=site.site, dropped=error.message)


def _probe(desk: Desk, site: Site, written: Sequence[Trace], acts: Sequence[Tensor]) -> ProbeResult:
    tokenizer = desk.model.tokenizer
    if not written:
        raise DataError("no trace has a verified answer", "give problems with answers")
    labels = np.array([bool(t.correct) for t in written])
    states = torch.stack([a.mean(0) for a in acts]).numpy()
    evaluation = evaluate_probe(
        states,
        labels,
        np.array([t.group for t in written]),
        baselines=baselines(written, acts, tokenizer),
        n_splits=desk.settings.probe.n_splits,
        n_boot=desk.settings.probe.n_boot,
        seed=desk.seed("probe"),
    )
    direction = np.asarray(LinearProbe().fit(states, labels).direction_)
    return ProbeResult(site=site, pooling=POOLING, evaluation=evaluation, direction=direction)


def baselines(written: Sequence[Trace], acts: Sequence[Tensor], tokenizer: Any) -> dict[str, np.ndarray | TokenCounts]:
    """What a probe must beat, all of it read off the text: length, steps of the problem, style, right and wrong
    equations, how often each token occurs."""
    known: dict[str, np.ndarray | TokenCounts] = {"length": np.array([len(a) for a in acts], dtype=float)}
    if all(t.n_steps is not None for t in written):
        known["n_steps"] = np.array([t.n_steps for t in written], dtype=float)
    if all(t.style is not None for t in written):
        known["style"] = np.array([t.style for t in written])
    counts = equations(written)
    if counts.any():
        known["equations"] = counts
    known["tokens"] = TokenCounts([tokenizer.encode(t.text, add_special_tokens=False) for t in written])
    return known


def equations(written: Sequence[Trace]) -> Float[np.ndarray, "n_traces 2"]:
    """Right and wrong equations in each text."""
    return np.array([equation_counts(t.text) for t in written], dtype=float).reshape(-1, 2)


def covariates(written: Sequence[Trace]) -> dict[str, np.ndarray]:
    """What a trajectory's shape must say more than, beside length and style."""
    right, wrong = equations(written).T
    known = {"right equations": right, "wrong equations": wrong}
    if all(t.n_steps is not None for t in written):
        known["number of steps"] = np.array([t.n_steps for t in written], dtype=float)
    return known


def topology(desk: Desk, traces: TracesResult, capture: CaptureResult, site: SiteResult) -> TopologyResult:
    """Persistent entropy of each trajectory at matched length, and whether it says more than the text itself does."""
    kept = Kept(desk)
    written, acts = judged(kept, capture, site.site)
    if not written:
        written, acts = kept.traces("train"), kept.responses(capture, site.site)
    try:
        found = trajectory_topology(
            acts,
            [trace.correct for trace in written],
            [trace.group for trace in written],
            site=str(site.site),
            n_points=desk.settings.topology.n_points,
            limit=desk.settings.max_new_tokens,
            covariates=covariates(written),
            styles=[trace.style for trace in written],
        )
    except DataError as error:
        return TopologyResult(dropped=error.message)
    return TopologyResult(topology=found, examples=typical(found, acts))


def typical(found: TrajectoryTopology, trajectories: Sequence[Tensor]) -> dict[str, TopologySummary]:
    """Of right, wrong and unjudged trajectories the one with the median H0 entropy, at matched length."""
    used = [points for points in trajectories if len(points) >= found.n_points]
    kinds = {"right": True, "wrong": False, "not judged": None}
    examples = {}
    for name, verdict in kinds.items():
        of_kind = [i for i, correct in enumerate(found.correct) if correct is verdict]
        if of_kind:
            middle = sorted(of_kind, key=lambda i: found.matched_entropy_nats[i])[len(of_kind) // 2]
            examples[f"a {name} trace"] = summarize(resample(used[middle], found.n_points))
    return examples
