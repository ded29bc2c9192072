"""Stages probe and topology: what tells right from wrong traces, beside what needs no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.evaluation.trajectories import trajectory_topology
from mechsteer.models.sites import Site
from mechsteer.probes import LinearProbe, evaluate_probe
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.results import CaptureResult, ProbeResult, SiteResult, TopologyResult, TracesResult
from mechsteer.tasks import Trace

POOLING = "mean over the tokens of each trace, its prompt left out,"


def judged(kept: Kept, capture: CaptureResult, site: Site) -> tuple[list[Trace], list[Tensor]]:
    """Training traces with a verdict and a text, and their activations at the site."""
    pairs = zip(kept.traces("train"), kept.responses(capture, site), strict=True)
    usable = [(trace, acts) for trace, acts in pairs if trace.correct is not None and len(acts)]
    return [trace for trace, _ in usable], [acts for _, acts in usable]


def probe(desk: Desk, traces: TracesResult, capture: CaptureResult, site: SiteResult) -> ProbeResult:
    """Right or wrong from the mean state of what the model wrote, beside length, steps and style alone."""
    try:
        return _probe(desk, site.site, *judged(Kept(desk), capture, site.site))
    except DataError as error:
        return ProbeResult(site=site.site, dropped=error.message)


def _probe(desk: Desk, site: Site, written: Sequence[Trace], acts: Sequence[Tensor]) -> ProbeResult:
    if not written:
        raise DataError("no trace has a verified answer", "give problems with answers")
    labels = np.array([bool(t.correct) for t in written])
    states = torch.stack([a.mean(0) for a in acts]).numpy()
    evaluation = evaluate_probe(
        states,
        labels,
        np.array([t.group for t in written]),
        baselines=baselines(written, acts),
        n_splits=desk.settings.probe.n_splits,
        n_boot=desk.settings.probe.n_boot,
        seed=desk.seed("probe"),
    )
    direction = np.asarray(LinearProbe().fit(states, labels).direction_)
    return ProbeResult(site=site, pooling=POOLING, evaluation=evaluation, direction=direction)


def baselines(written: Sequence[Trace], acts: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """What a probe must beat: the length of the text alone, the number of steps alone, the style alone."""
    known: dict[str, np.ndarray] = {"length": np.array([len(a) for a in acts], dtype=float)}
    if all(t.n_steps is not None for t in written):
        known["n_steps"] = np.array([t.n_steps for t in written], dtype=float)
    if all(t.style is not None for t in written):
        known["style"] = np.array([t.style for t in written])
    return known


def topology(desk: Desk, traces: TracesResult, capture: CaptureResult, site: SiteResult) -> TopologyResult:
    """Persistent entropy of each trajectory at matched length, and whether it says more than length does."""
    kept = Kept(desk)
    written, acts = judged(kept, capture, site.site)
    if not written:
        written, acts = kept.traces("train"), kept.responses(capture, site.site)
    try:
        return TopologyResult(
            topology=trajectory_topology(
                acts,
                [trace.correct for trace in written],
                [trace.group for trace in written],
                site=str(site.site),
                n_points=desk.settings.topology.n_points,
                limit=desk.settings.max_new_tokens,
                seed=desk.seed("topology"),
            )
        )
    except DataError as error:
        return TopologyResult(dropped=error.message)
