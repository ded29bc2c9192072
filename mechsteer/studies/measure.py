"""Stages probe and topology: what tells right from wrong traces, beside what needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.directions import from_probe, save_direction
from mechsteer.errors import DataError
from mechsteer.evaluation.trajectories import TrajectoryTopology, trajectory_topology
from mechsteer.evaluation.trajectory_layers import topology_over_layers
from mechsteer.models import tokenize_continuation
from mechsteer.models.sites import Site
from mechsteer.probes import LinearProbe, TokenCounts, evaluate_probe
from mechsteer.studies import shapes
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.results import CaptureResult, ProbeResult, SiteResult, TopologyResult, TracesResult, TrainResult
from mechsteer.tasks import Trace, equation_counts
from mechsteer.tokens import token_text
from mechsteer.topology import TopologySummary, resample, summarize

DIRECTION = "probe.safetensors"
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
        baselines=baselines(written, [len(a) for a in acts], tokenizer),
        n_splits=desk.settings.probe.n_splits,
        n_boot=desk.settings.probe.n_boot,
        seed=desk.seed("probe"),
    )
    fitted = LinearProbe().fit(states, labels)
    exported = from_probe(fitted, site=site, name="right answers", pooling="mean of what was written")
    save_direction(exported, desk.write(DIRECTION), model=desk.model)
    return ProbeResult(
        site=site,
        pooling=POOLING,
        evaluation=evaluation,
        direction=np.asarray(fitted.direction_),
        intercept=float(fitted.intercept_),
        scale=float(fitted.scale_),
    )


def baselines(written: Sequence[Trace], lengths: Sequence[int], tokenizer: Any) -> dict[str, np.ndarray | TokenCounts]:
    """What a probe must beat, all of it read off the text: length, steps of the problem, style, right and wrong
    equations, how often each token occurs."""
    known: dict[str, np.ndarray | TokenCounts] = {"length": np.array(lengths, dtype=float)}
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


def topology(
    desk: Desk, traces: TracesResult, capture: CaptureResult, train: TrainResult | None, site: SiteResult
) -> TopologyResult:
    """Persistent entropy of each trajectory at matched length, and whether it says more than the text itself does; diagrams
    of right and wrong traces, and of texts before and after steering; the same over layers, and how early."""
    kept = Kept(desk)
    known = {place: judged(kept, capture, place) for place in capture.sites}
    written, acts = known[site.site]
    if not written:
        written = kept.traces("train")
        known = {place: (written, kept.responses(capture, place)) for place in capture.sites}
        acts = known[site.site][1]
    how: dict[str, Any] = {
        "n_points": desk.settings.topology.n_points,
        "limit": desk.settings.max_new_tokens,
        "covariates": covariates(written),
        "styles": [trace.style for trace in written],
    }
    correct, groups = [trace.correct for trace in written], [trace.group for trace in written]
    found, dropped = shapes.attempt(lambda: trajectory_topology(acts, correct, groups, site=str(site.site), **how))
    over, no_layers = None, "one site was captured: give layers=[...]"
    if len(known) > 1:
        by_site = {place: each for place, (_, each) in known.items()}
        over, no_layers = shapes.attempt(lambda: topology_over_layers(by_site, correct, groups, **how))
    compared, no_shapes = shapes.right_and_wrong(desk, site.site, written, acts)
    early, no_early = shapes.early_shares(desk, site.site, written, acts)
    steered, no_steered, steered_maps = None, "nothing is steered", ()
    if train is not None:
        steered, no_steered, steered_maps = shapes.steered_shapes(desk, kept, site.site, traces.metric)
    rows = {} if found is None else typical_rows(found, acts)
    return TopologyResult(
        topology=found,
        dropped=dropped,
        examples={} if found is None else typical(found, acts),
        shapes=compared,
        no_shapes=no_shapes,
        maps=shapes.maps({name: (acts[i], said(desk, written[i])) for name, i in rows.items()}) if rows else (),
        early=early,
        no_early=no_early,
        layers=over,
        no_layers=no_layers,
        steered=steered,
        no_steered=no_steered,
        steered_maps=steered_maps,
    )


def said(desk: Desk, trace: Trace) -> list[str]:
    """The tokens of what the model wrote."""
    return [token_text(desk.model.tokenizer, token) for token in tokenize_continuation(desk.model, trace.text)]


def typical_rows(found: TrajectoryTopology, trajectories: Sequence[Tensor]) -> dict[str, int]:
    """Of right, wrong and unjudged trajectories the one with the median H0 entropy at matched length."""
    used = [i for i, points in enumerate(trajectories) if len(points) >= found.n_points]
    kinds = {"right": True, "wrong": False, "not judged": None}
    rows = {}
    for name, verdict in kinds.items():
        of_kind = [i for i, correct in enumerate(found.correct) if correct is verdict]
        if of_kind:
            middle = sorted(of_kind, key=lambda i: found.matched_entropy_nats[i])[len(of_kind) // 2]
            rows[f"a {name} trace"] = used[middle]
    return rows


def typical(found: TrajectoryTopology, trajectories: Sequence[Tensor]) -> dict[str, TopologySummary]:
    """`typical_rows` at matched length, as diagrams."""
    rows = typical_rows(found, trajectories)
    return {name: summarize(resample(trajectories[i], found.n_points)) for name, i in rows.items()}
