"""How much of an effect flows through every node and along every edge: conductance of the way from base to steered.

Scale the intervention by α. With u(α) what sender u writes and g_v(α) the gradient of the metric at what receiver v
alone reads,

    flow(u → v) = ∫₀¹ ⟨du/dα, g_v⟩ dα        flow through n = ∫₀¹ ⟨dn/dα, ∂metric/∂n⟩ dα

(integrated gradients, Sundararajan et al. 2017, arXiv 1703.01365, of inner nodes: conductance, Dhamdhere et al. 2018,
arXiv 1805.12233). By the chain rule nothing is lost on the way: what flows into a node flows out of it, and what leaves
the intervention, or arrives at the logits, is the whole effect. The integral is a sum over steps of u's differences
times gradients at the middles of the steps (exact where the metric is quadratic in α); what the sum misses is the
residual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mechsteer.attribution.path_runs import PathRuns, Trace
from mechsteer.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Flow:
    """Of every prompt, in units of the metric."""

    through: Tensor  # [n_prompts n_nodes]
    queries_keys: Tensor  # [n_prompts n_nodes] the part that changes the patterns of a head; 0 for MLPs
    edges: Tensor  # [n_prompts n_senders n_receivers]

    @property
    def arrived(self) -> Tensor:
        """[n_prompts] what the edges into the logits add up to."""
        return self.edges[:, :, -1].sum(1)


def flow(runs: PathRuns, n_steps: int) -> Flow:
    """The flow of one batch, in `n_steps` steps."""
    graph, n = runs.graph, len(runs.graph.nodes)
    through, qk = (torch.zeros(runs.n_rows, n, dtype=torch.float64) for _ in range(2))
    edges = torch.zeros(runs.n_rows, n + 1, n + 1, dtype=torch.float64)
    before = runs.base
    for step in range(n_steps):
        with torch.no_grad():
            after = runs.trace((step + 1) / n_steps)[0]
        slopes = _Slopes(runs, (step + 0.5) / n_steps)
        senders: list[tuple[list[int], Tensor]] = [([0], runs.delta[:, :, None] / n_steps)]
        for layer, (heads, mlp) in graph.layers.items():
            if heads:
                change = after.z[layer] - before.z[layer]
                through[:, heads] += (change * slopes.z[layer]).sum((1, 3)).double().cpu()
                qk[:, heads] += slopes.queries_keys(layer, before, after).double().cpu()
                weight = runs.out_weight(layer).to(change.dtype)
                senders.append(([i + 1 for i in heads], torch.einsum("bphk,dhk->bphd", change, weight)))
            if mlp is not None:
                change = after.mlp[layer] - before.mlp[layer]
                through[:, mlp] += (change * slopes.mlp[layer]).sum((1, 2)).double().cpu()
                senders.append(([mlp + 1], change[:, :, None]))
        for receivers, gradient in slopes.reads():  # gradient [batch pos receiver d_model]
            for numbers, change in senders:
                if not bool(graph.allowed[numbers][:, receivers].any()):
                    continue
                part = torch.einsum("bpsd,bprd->bsr", change, gradient).double().cpu()
                part = part * graph.allowed[numbers][:, receivers]
                edges[:, torch.tensor(numbers)[:, None], torch.tensor(receivers)[None, :]] += part
        before = after
    return Flow(through, qk, edges)


class _Slopes:
    """Gradients of the metric at one α: at the outputs of nodes, and at what every receiver alone reads."""

    def __init__(self, runs: PathRuns, alpha: float) -> None:
        self.runs, self.graph = runs, runs.graph
        self.found, self.given = Trace(), Trace()  # in the graph: nodes as they come, and their outputs as passed on
        with torch.enable_grad():
            delta = (alpha * runs.delta).detach().requires_grad_()
            value = runs.run(delta, self._attach).sum()
            if not value.requires_grad:
                raise ConfigError("the metric does not depend on the logits differentiably", "avoid argmax, counts")
        assert self.given.final is not None
        outputs = [self.given.final, *self.given.z.values(), *self.given.mlp.values(), *self.given.mlp_in.values()]
        self.final, *rest = torch.autograd.grad(value, outputs, retain_graph=True)
        n_z, n_mlp = len(self.given.z), len(self.given.mlp)
        self.z = dict(zip(self.given.z, rest, strict=False))
        self.mlp = dict(zip(self.given.mlp, rest[n_z:], strict=False))
        self.mlp_in = dict(zip(self.given.mlp_in, rest[n_z + n_mlp :], strict=True))
        self._of_heads: dict[int, list[tuple[Tensor, ...]]] = {}
        for layer in self.z:
            self._of_heads[layer] = [self._back_through(layer, head) for head in range(self.z[layer].shape[2])]

    def _attach(self, later: Callable) -> None:
        runs, given = self.runs, self.given

        def passed(store: dict[int, Tensor], layer: int) -> Callable[[Tensor], Tensor]:
            def fn(acts: Tensor) -> Tensor:
                if layer not in store:  # a norm may be called several times on one read
                    store[layer] = acts.clone()
                return store[layer]

            return fn

        def z(layer: int) -> Callable[[Tensor], Tensor]:
            def fn(acts: Tensor) -> Tensor:
                self.found.z[layer], given.z[layer] = acts, acts.clone()
                return given.z[layer]

            return fn

        def final(resid: Tensor) -> Tensor:
            given.final = resid.clone()
            return given.final

        for layer, (heads, mlp) in self.graph.layers.items():
            if heads:
                later(runs.on_read(layer, "ln1", passed(given.attn_in, layer)))
                later(runs.on(layer, "q", passed(given.q, layer)))
                later(runs.on(layer, "k", passed(given.k, layer)))
                later(runs.on(layer, "z", z(layer)))
            if mlp is not None:
                later(runs.on_read(layer, "ln2", passed(given.mlp_in, layer)))
                later(runs.on(layer, "mlp_out", passed(given.mlp, layer)))
        later(runs.on_read(None, "", final))

    def _back_through(self, layer: int, head: int) -> tuple[Tensor, ...]:
        """Gradients at what the attention reads and at its queries and keys, for what goes through one head."""
        given = self.given
        chosen = torch.zeros_like(self.z[layer])
        chosen[:, :, head] = self.z[layer][:, :, head]
        inputs = [given.attn_in[layer], given.q[layer], given.k[layer]]
        return torch.autograd.grad(self.found.z[layer], inputs, chosen, retain_graph=True)

    def queries_keys(self, layer: int, before: Trace, after: Trace) -> Tensor:
        """[batch head] the part of the flow through each head that goes through its queries and keys."""
        changes = (after.q[layer] - before.q[layer], after.k[layer] - before.k[layer])
        parts = [
            sum((change * slope).flatten(1).sum(1) for change, slope in zip(changes, slopes[1:], strict=True))
            for slopes in self._of_heads[layer]
        ]
        return torch.stack([torch.as_tensor(part) for part in parts], dim=1)

    def reads(self) -> list[tuple[list[int], Tensor]]:
        """(receivers, gradients [batch pos receiver d_model]) in the order of the forward."""
        found = []
        for layer, (heads, mlp) in self.graph.layers.items():
            if heads:
                found.append((heads, torch.stack([slopes[0] for slopes in self._of_heads[layer]], dim=2)))
            if mlp is not None:
                found.append(([mlp], self.mlp_in[layer][:, :, None]))
        return [*found, ([len(self.graph.nodes)], self.final[:, :, None])]
