"""Where the effect of an intervention goes: through which heads, MLPs and edges it reaches the logits, checked.

Every attention head (its z, written through W_O: its OV side; its queries and keys: its QK side) and every MLP behind
the intervention is a node; the direct path to the logits is one more. Flows are integrated gradients
(`mechsteer.attribution.path_flow`); each claim is then tried in runs of the model with nodes, edges or attention
patterns held at what they are without the intervention (`path_runs`, `path_check`).

How much of a steering vector's effect needs attention patterns to change is the question of arXiv 2604.08524, where
freezing them costs 8.75 %: the OV side carries the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.attribution.deltas import sites_of, steered_run
from mechsteer.attribution.metrics import Metric, MetricFunction, PlainMetric, as_metric
from mechsteer.attribution.path_check import Members, Shares, curve, halves, lost
from mechsteer.attribution.path_flow import Flow, flow
from mechsteer.attribution.path_frames import completed, edge_frame, node_frame, patterns
from mechsteer.attribution.path_graph import PathGraph, path_graph
from mechsteer.attribution.path_runs import Held, PathRuns
from mechsteer.attribution.replay import Prepared, Runner, prepare
from mechsteer.errors import ConfigError, DataError
from mechsteer.models.sites import Site, SiteLike
from mechsteer.results import Interval, Result, cluster_weights
from mechsteer.runtime.session import open_sessions
from mechsteer.steering.interventions import Interventions

RESOLVED = 0.05  # the share that may be missing from the sum of all flows
_NOISE = 1e-3  # of the sum of all |flows| into the logits: less than this is arithmetic


@dataclass(frozen=True, kw_only=True)
class PathSettings(Result):
    """How paths were traced and checked."""

    k: tuple[int, ...]
    n_random: int
    integrated: int
    """steps of integrated gradients that were used"""
    seed: int
    n_bootstrap: int
    held: tuple[Site, ...]
    """sites of the same steering whose deltas are in every run, the base run included"""


@dataclass(frozen=True, kw_only=True)
class PathAttribution(Result):
    """Effects are means over prompts of metric(steered) − metric(base), in the metric's units; shares are of `total`.

    Intervals (_low, _high) are percentile bootstraps over prompts.

    `nodes`: one row per head, MLP and the direct path, by falling |share|. `share`: what flows through the node (a path
    passes several nodes, so these do not add up to 1); `first`: what reaches it straight from the intervention; `last`:
    what it hands straight to the logits. `first` adds up to 1 − `unsent_share`, `last` to 1 − `residual_share`.
    `queries_keys`: the part of a head's share that changes its attention pattern; the rest goes through its values.
    `lost`: the share of the effect that goes when the model runs with this node alone held at its base output; of the
    first max(k) nodes, else nan.

    `edges`: sender, receiver, share, and `lost` when the receiver reads the stream without the sender's change.

    `node_check`, `edge_check`: one row per k: `sufficiency` and `necessity` of the top k, chosen on the other half of
    the prompts, and of `n_random` random sets of k (edges: whole random paths), mean and 95 % range of the draws.

    `patterns`: the share of the effect that is lost when attention patterns stay as they are without the intervention,
    in all layers ("all") and layer by layer.

    `nothing_to_attribute`: the interval of the total holds 0, or the total is within the noise of the sum of flows;
    then shares and checks are nan and `reason` says why.
    """

    site: Site
    metric: str
    total: float
    interval: tuple[float, float]
    base: Float[Tensor, " n_prompts"]
    steered: Float[Tensor, " n_prompts"]
    nodes: pd.DataFrame
    edges: pd.DataFrame
    n_edges: int
    node_check: pd.DataFrame
    edge_check: pd.DataFrame
    patterns: pd.DataFrame
    residual_share: float
    unsent_share: float
    nothing_to_attribute: bool
    reason: str
    settings: PathSettings

    @property
    def is_resolved(self) -> bool:
        """What leaves the intervention and what arrives both add up to the effect within 0.05."""
        return max(abs(self.residual_share), abs(self.unsent_share)) <= RESOLVED

    @property
    def needs_patterns(self) -> Interval:
        """Share of the effect that needs attention patterns to change; nan where no attention follows."""
        row = self.patterns[self.patterns["layer"] == "all"]
        if not len(row):
            return Interval(value=math.nan, low=math.nan, high=math.nan)
        values = row.iloc[0]
        return Interval(value=float(values["share"]), low=float(values["low"]), high=float(values["high"]))

    def frame(self) -> pd.DataFrame:
        """The nodes, largest |share| first."""
        return self.nodes.copy()

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k edges with the largest |share|."""
        return self.edges.head(k).copy()


def attribute_paths(
    model: Any,
    iv: Interventions,
    prompts: Sequence[str | Sequence[int]],
    metric: Metric | MetricFunction,
    *,
    integrated: int = 8,
    k: Sequence[int] = (1, 4, 16),
    n_random: int = 20,
    seed: int = 0,
    n_bootstrap: int = 1000,
    site: SiteLike | None = None,
    continuations: Sequence[str | Sequence[int]] | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> PathAttribution:
    """Trace the effect of `iv` on `metric` through the model, and check every named part by really holding it.

    `metric`, `prompts`, `continuations` and `site` are those of `attribute_effect`. The intervention writes into the
    residual stream (resid_*, attn_out, mlp_out); of a Steering over several sites the others stay as they are in the
    base run, and one that answers to `site` is refused. `integrated`: steps of integrated gradients; doubled, up to
    eight times as many, until flows add up within 0.05. `k`: sizes of the checked sets. Memory: two streams a
    layer for all prompts, and batch_size x pos x d_model gradients for every head and MLP. Everything is a function of `seed`.

    Raises ConfigError (a site off the stream; a model that is not pre-norm, attends both ways or has blocks without
    heads; an open `steer` block), ShapeError, NonFiniteError, DataError (fewer than four prompts), and what `steer`
    raises.
    """
    sizes = tuple([k] if isinstance(k, int) else k)
    if not sizes or min(sizes) < 1 or n_random < 1 or integrated < 1 or n_bootstrap < 1:
        raise ConfigError(
            f"k={sizes}, n_random={n_random}, integrated={integrated}, n_bootstrap={n_bootstrap}", "all are positive"
        )
    if len(prompts) < 4:
        raise DataError(f"{len(prompts)} prompt(s) cannot be halved into intervals", "pass at least four prompts")
    if any(session.interventions for session in open_sessions(model)):
        raise ConfigError("a steer block is open on this model", "close it, or pass what it holds in the same Steering")
    runner = prepare(model, iv, prompts, continuations, as_metric(metric), site, batch_size)
    graph = path_graph(model, runner.site)
    base, steered = runner.gather("base"), runner.gather("steered")
    effect = (steered - base).numpy()
    draws = cluster_weights(len(effect), n_bootstrap, np.random.default_rng(seed)) / len(effect)
    total = Interval.from_draws(effect.mean(), draws @ effect)
    runs = [_runs(runner, graph, each) for each in runner.batches]
    found, steps = _flow(runner, runs, integrated, total.value)
    reason = _nothing(total, found)
    shares = Shares(runner, runs, base.numpy(), effect, draws)
    node_members, edge_members = _node_members(graph, found), _edge_members(graph, found)
    checks = {"node": pd.DataFrame(), "edge": pd.DataFrame()}
    lost_by: dict[str, dict[int, Interval]] = {"node": {}, "edge": {}}
    held = pd.DataFrame(columns=["layer", "share", "low", "high"])
    if not reason:
        first = halves(len(effect), seed)
        n_named = max(sizes)
        n_runs = 2 * 2 * len(sizes) * (1 + n_random) + 2 * n_named
        with tqdm(total=n_runs, desc="check paths", disable=not progress) as bar:
            for name, members in (("node", node_members), ("edge", edge_members)):
                checks[name] = curve(members, shares, sizes, n_random, first, seed, bar)
                lost_by[name] = lost(members, shares, n_named, bar)
        held = patterns(graph, shares)
    arrived, sent = found.arrived.mean(), found.edges[:, 0].sum(1).mean()
    return PathAttribution(
        site=runner.site,
        metric=_name(metric),
        total=total.value,
        interval=(total.low, total.high),
        base=base,
        steered=steered,
        nodes=node_frame(graph, found, node_members, shares, lost_by["node"], defined=not reason),
        edges=edge_frame(graph, edge_members, shares, lost_by["edge"], defined=not reason),
        n_edges=len(graph.edges),
        node_check=completed(checks["node"], sizes, len(graph.nodes) + 1),
        edge_check=completed(checks["edge"], sizes, len(graph.edges)),
        patterns=held,
        residual_share=math.nan if reason else 1 - float(arrived) / total.value,
        unsent_share=math.nan if reason else 1 - float(sent) / total.value,
        nothing_to_attribute=bool(reason),
        reason=reason,
        settings=PathSettings(
            k=sizes,
            n_random=n_random,
            integrated=steps,
            seed=seed,
            n_bootstrap=n_bootstrap,
            held=tuple(dict.fromkeys(each.site for each in runner.others)),
        ),
    )


# -- runs and flows


def _runs(runner: Runner, graph: PathGraph, each: Prepared) -> PathRuns:
    """The runs of one batch, after a look at whether this model is what paths assume it to be."""
    held: Held = {}
    if runner.others:
        nowhere = (each.batch.rows[:0], each.batch.rows[:0])
        groups = sites_of(runner.model, runner.others)
        others = [other for group in groups.values() for other in group]
        _, held = steered_run(runner.model, each.batch, groups, others, start=each.start, unembed_at=nowhere)
    runs = PathRuns(runner, graph, each, held)
    with torch.no_grad():
        found, metric = runs.trace(1.0)
    assert found.final is not None
    assert runs.base.final is not None
    change = found.final - runs.base.final
    rest = change - runs.delta
    for layer, (heads, mlp) in graph.layers.items():
        if heads:
            answer = found.z[layer] - runs.base.z[layer]
            rest = rest - torch.einsum("bphk,dhk->bpd", answer, runs.out_weight(layer).to(answer.dtype))
        if mlp is not None:
            rest = rest - (found.mlp[layer] - runs.base.mlp[layer])
    if float(rest.norm()) > 0.05 * float(change.norm()) + 1e-6:  # rounding is far below, another architecture far above
        raise ConfigError(
            "what the heads and MLPs write does not add up to this model's residual stream",
            "paths are traced where every part adds its output as it is, without a norm or a factor behind it",
        )
    gap, size = float((metric - each.steered).abs().max()), float((each.steered - each.base).abs().max())
    if runner.others and gap > 0.01 * size + 1e-4:
        raise ConfigError(
            f"interventions at {[str(other.site) for other in runner.others]} answer to the one at {graph.site}",
            "trace them one by one, each in a Steering of its own",
        )
    return runs


def _flow(runner: Runner, runs: Sequence[PathRuns], n_steps: int, total: float) -> tuple[Flow, int]:
    """(flows of all prompts, steps), in more steps where they do not add up."""
    most = 8 * n_steps
    while True:
        parts = [flow(each, n_steps) for each in runs]
        found = Flow(*(_gathered(runner, [getattr(p, name) for p in parts]) for name in Flow.__dataclass_fields__))
        ends = (float(found.arrived.mean()), float(found.edges[:, 0].sum(1).mean()))
        if n_steps >= most or max(abs(total - end) for end in ends) <= RESOLVED * abs(total):
            return found, n_steps
        n_steps *= 2


def _gathered(runner: Runner, parts: Sequence[Tensor]) -> Tensor:
    flat = torch.cat(list(parts))
    out = torch.empty_like(flat)
    out[runner.order] = flat
    return out


def _nothing(total: Interval, found: Flow) -> str:
    if total.low <= 0 <= total.high:
        return f"the total effect {total.value:.4g} has the interval [{total.low:.4g}, {total.high:.4g}], which holds 0"
    size = float(found.edges[:, :, -1].mean(0).abs().sum())
    if abs(total.value) < _NOISE * size:
        return f"the total effect {total.value:.4g} is under {_NOISE:g} of the flows that add up to it, {size:.4g}"
    return ""


def _node_members(graph: PathGraph, found: Flow) -> Members:
    direct = found.edges[:, :1, -1]

    def draw(size: int, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(graph.nodes) + 1, generator=generator)[:size]

    return Members(torch.cat([found.through, direct], 1), lambda each, chosen: each.nodes(chosen), draw)


def _edge_members(graph: PathGraph, found: Flow) -> Members:
    senders, receivers = graph.edges.T
    number = {(int(s), int(r)): i for i, (s, r) in enumerate(graph.edges.tolist())}

    def run(each: PathRuns, chosen: Tensor) -> Tensor:
        kept = torch.zeros(len(chosen), *graph.allowed.shape, dtype=torch.bool)
        kept[:, senders, receivers] = chosen
        return each.edges(kept)

    def draw(size: int, generator: torch.Generator) -> Tensor:
        return torch.tensor([number[edge] for edge in graph.random_paths(size, generator)])

    return Members(found.edges[:, senders, receivers], run, draw)


def _name(metric: Any) -> str:
    """The metric in words: "log odds", "target logprob", or the function's name."""
    metric = metric.function if isinstance(metric, PlainMetric) else metric
    if isinstance(metric, Metric):
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(metric).__name__).lower()
    return str(getattr(metric, "__name__", type(metric).__name__)).replace("_", " ")
