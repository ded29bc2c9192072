"""Really running a model while parts of it are held at what they gave without the intervention.

Three kinds of run, all with the recorded deltas of the intervention in place: *nodes* held (their outputs are those of
the base run), *edges* held (a receiver reads the stream without the change that a sender made to it: path patching,
Goldowsky-Dill et al. 2023, arXiv 2304.05969), *attention patterns* held (queries and keys are those of the base run,
so the softmax gives the base run's weights, whichever kernel computes it).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mechsteer.attribution.path_graph import PathGraph, hook
from mechsteer.attribution.replay import Prepared, Runner, read_positions
from mechsteer.models import backend_of
from mechsteer.models.reads import around_block, change_read, n_heads_and_size, norm_of
from mechsteer.models.sites import Site
from mechsteer.runtime.restart import run_from

Remove = Callable[[], None]
Held = dict[Site, Tensor]  # deltas [batch pos d_model] of other sites, the same in every run


@dataclass
class Trace:
    """What one forward passed on, by layer: outputs of the nodes, and what they read.

    `z` [batch pos head d_head], `mlp` [batch pos d_model], `q`, `k` as the class has them; the streams read by the
    attention (`attn_in`), the MLP (`mlp_in`) and, as `final`, the unembedding [batch pos d_model].
    """

    z: dict[int, Tensor] = field(default_factory=dict)
    mlp: dict[int, Tensor] = field(default_factory=dict)
    q: dict[int, Tensor] = field(default_factory=dict)
    k: dict[int, Tensor] = field(default_factory=dict)
    attn_in: dict[int, Tensor] = field(default_factory=dict)
    mlp_in: dict[int, Tensor] = field(default_factory=dict)
    final: Tensor | None = None


@dataclass(eq=False)
class PathRuns:
    """The runs of one batch."""

    runner: Runner
    graph: PathGraph
    each: Prepared
    held: Held
    base: Trace = field(init=False)

    def __post_init__(self) -> None:
        self.delta = self.each.delta
        with torch.no_grad():
            self.base, self.base_metric = self.trace(0.0)

    @property
    def n_rows(self) -> int:
        return len(self.each.base)

    def out_weight(self, layer: int) -> Tensor:
        """W_O [d_model head d_head]."""
        weight = backend_of(self.runner.model).weights.map_weight(layer, "o")
        return weight.unflatten(1, self.base.z[layer].shape[2:])

    # -- forwards

    def run(self, delta: Tensor | None, attach: Callable[[Callable], None] | None = None) -> Tensor:
        """[batch] the metric with this delta in place, under whatever `attach(keep)` puts on the model."""
        runner, each = self.runner, self.each
        with contextlib.ExitStack() as stack:
            for site, value in self.held.items():
                stack.callback(self._add(site, value))
            if delta is not None:
                stack.callback(self._add(self.graph.site, delta))
            if attach is not None:
                attach(stack.callback)
            at = read_positions(each.batch, each.metric)
            logits = run_from(runner.model, each.batch, each.start, unembed_at=at)
            return runner.measure(each.batch, each.metric, logits)

    def on(self, layer: int, point: str, fn: Callable[[Tensor], Tensor | None]) -> Remove:
        """Attach at a point of a layer, `z` with its heads apart."""
        model = self.runner.model
        name = hook(model, layer, point)
        if point != "z":
            return backend_of(model).runner.attach(name, fn)

        def apart(acts: Tensor) -> Tensor | None:
            out = fn(acts.reshape(*acts.shape[:2], *n_heads_and_size(acts, model.cfg.n_heads)))
            return None if out is None else out.reshape(acts.shape)

        return backend_of(model).runner.attach(name, apart)

    def on_read(self, layer: int | None, norm: str, fn: Callable[[Tensor], Tensor | None]) -> Remove:
        """Change what the attention ("ln1"), the MLP ("ln2") or the unembedding (layer None) reads."""
        module = norm_of(self.runner.model, layer, norm)
        assert module is not None  # looked at when the graph was made
        return change_read(self.runner.model, module, fn)

    def trace(self, alpha: float) -> tuple[Trace, Tensor]:
        """(what passes, metric [batch]) with `alpha` times the deltas."""
        found = Trace()

        def keep(store: dict[int, Tensor], layer: int) -> Callable[[Tensor], None]:
            return lambda acts: store.__setitem__(layer, acts.detach().clone())

        def attach(later: Callable) -> None:
            for layer, (heads, mlp) in self.graph.layers.items():
                if heads:
                    for point in ("z", "q", "k"):
                        later(self.on(layer, point, keep(getattr(found, point), layer)))
                    later(self.on_read(layer, "ln1", keep(found.attn_in, layer)))
                if mlp is not None:
                    later(self.on(layer, "mlp_out", keep(found.mlp, layer)))
                    later(self.on_read(layer, "ln2", keep(found.mlp_in, layer)))
            later(self.on_read(None, "", lambda acts: setattr(found, "final", acts.detach().clone())))

        return found, self.run(alpha * self.delta, attach)

    @torch.no_grad()
    def nodes(self, respond: Tensor) -> Tensor:
        """[batch] metric where only the nodes in `respond` [batch n_nodes + 1] answer; the last is the direct path."""
        respond = respond.to(self.delta.device)

        def attach(later: Callable) -> None:
            for layer, (heads, mlp) in self.graph.layers.items():
                if heads and not bool(respond[:, heads].all()):
                    free = respond[:, heads][:, None, :, None]
                    later(self.on(layer, "z", lambda z, free=free, i=layer: torch.where(free, z, self.base.z[i])))
                if mlp is not None and not bool(respond[:, mlp].all()):
                    free = respond[:, mlp][:, None, None]
                    later(
                        self.on(layer, "mlp_out", lambda m, free=free, i=layer: torch.where(free, m, self.base.mlp[i]))
                    )
            if not bool(respond[:, -1].all()):
                taken = self.delta.masked_fill(respond[:, -1][:, None, None], 0)
                later(self.on_read(None, "", lambda resid: resid - taken))

        return self.run(self.delta, attach)

    @torch.no_grad()
    def patterns(self, layers: Sequence[int]) -> Tensor:
        """[batch] metric with the attention patterns of these layers held."""

        def attach(later: Callable) -> None:
            for layer in layers:
                for point in ("q", "k"):
                    value = getattr(self.base, point)[layer]
                    later(self.on(layer, point, lambda acts, value=value: value.to(acts.dtype)))

        return self.run(self.delta, attach)

    @torch.no_grad()
    def edges(self, kept: Tensor) -> Tensor:
        """[batch] metric where changes travel along the edges in `kept` [batch n_senders n_receivers] alone."""
        edited = _EdgeRun(self, kept.to(self.delta.device))
        return self.run(self.delta, edited.attach)

    def _add(self, site: Site, value: Tensor) -> Remove:
        model = self.runner.model
        name = site.resolve(model, write=True)
        return backend_of(model).runner.attach(name, lambda acts: acts + value.reshape(acts.shape).to(acts.dtype))


class _Enough(Exception):  # no error: it ends a pass
    """A pass through a block has given what it was for; what follows in the block need not run."""


class _EdgeRun:
    """One forward in which every receiver has a read of its own."""

    def __init__(self, runs: PathRuns, kept: Tensor) -> None:
        self.runs, self.graph, self.kept = runs, runs.graph, kept
        self.allowed = runs.graph.allowed.to(kept.device)
        self.head: int | None = None  # the head whose z a first pass through a block is for
        self.z: dict[int, Tensor] = {}  # node -> z of a head that reads for itself
        self.answers: dict[int, Tensor] = {}  # layer -> z − base z
        self.mlps: dict[int, Tensor] = {}
        self.changes: dict[int, Tensor] = {}  # sender -> what it changed in the stream [batch pos d_model]

    def attach(self, later: Callable) -> None:
        """Put everything on the model."""
        runs, model = self.runs, self.runs.runner.model
        for layer, (heads, mlp) in self.graph.layers.items():
            if heads:
                apart = [node for node in heads if self._way(node) == "own"]
                if apart:
                    later(around_block(model, layer, lambda run, apart=apart: self._passes(run, apart)))
                    later(runs.on_read(layer, "ln1", self._head_reads(layer)))
                later(runs.on(layer, "z", lambda z, layer=layer, heads=heads: self._heads(z, layer, heads)))
            if mlp is not None:
                if self._way(mlp) == "own":
                    later(runs.on_read(layer, "ln2", lambda r, mlp=mlp, i=layer: self._mlp_reads(r, mlp, i)))
                later(runs.on(layer, "mlp_out", lambda m, layer=layer, mlp=mlp: self._mlp(m, layer, mlp)))
        sink = len(self.graph.nodes)
        if self._way(sink) != "all":
            later(runs.on_read(None, "", lambda r: self.read(sink, r, runs.base.final)))

    def _way(self, receiver: int) -> str:
        """How a receiver reads in this run: "all" of the stream, "none" of the changes, or its "own" selection."""
        column = self.kept[:, self.allowed[:, receiver], receiver]
        return (
            "all"
            if bool(column.all())
            else "own"
            if bool(column.any()) or receiver == len(self.graph.nodes)
            else "none"
        )

    def read(self, receiver: int, resid: Tensor, base: Tensor | None) -> Tensor:
        """The stream as `receiver` sees it: the base run's and what is kept, or this run's without what is not."""
        assert base is not None
        column, can = self.kept[:, :, receiver], self.allowed[:, receiver]
        kept, gone = column & can, ~column & can
        add = int(kept.any(0).sum()) <= int(gone.any(0).sum())
        part = kept if add else gone
        out = base if add else resid
        for sender in part.any(0).nonzero()[:, 0].tolist():
            change = self._change(sender)
            weighted = change if bool(part[:, sender].all()) else change * part[:, sender, None, None]
            out = out + weighted if add else out - weighted
        return out

    def _change(self, sender: int) -> Tensor:
        if sender == 0:
            return self.runs.delta
        if sender not in self.changes:
            node = self.graph.nodes[sender - 1]
            if node.kind == "mlp":
                self.changes[sender] = self.mlps[node.layer]
            else:
                weight = self.runs.out_weight(node.layer)[:, node.head]
                self.changes[sender] = self.answers[node.layer][:, :, node.head] @ weight.T
        return self.changes[sender]

    def _passes(self, run: Callable[[], Any], apart: list[int]) -> Any:
        for self.head in apart:
            with contextlib.suppress(_Enough):
                run()
        self.head = None
        return run()

    def _head_reads(self, layer: int) -> Callable[[Tensor], Tensor | None]:
        base = self.runs.base.attn_in[layer]
        return lambda resid: None if self.head is None else self.read(self.head, resid, base)

    def _heads(self, z: Tensor, layer: int, heads: list[int]) -> Tensor | None:
        if self.head is not None:
            self.z[self.head] = z[:, :, self.graph.nodes[self.head].head].clone()
            raise _Enough
        base, out = self.runs.base.z[layer], z.clone()
        for node in heads:
            head, way = self.graph.nodes[node].head, self._way(node)
            if way != "all":
                out[:, :, head] = self.z[node] if way == "own" else base[:, :, head]
        self.answers[layer] = out - base
        return out

    def _mlp_reads(self, resid: Tensor, mlp: int, layer: int) -> Tensor:
        return self.read(mlp, resid, self.runs.base.mlp_in[layer])

    def _mlp(self, out: Tensor, layer: int, mlp: int) -> Tensor:
        if self._way(mlp) == "none":
            out = self.runs.base.mlp[layer]
        self.mlps[layer] = out - self.runs.base.mlp[layer]
        return out
