"""The parts of a model behind an intervention, in the order of the forward, and who can pass what on to whom.

Senders write into the residual stream: the intervention, every attention head, every MLP. Receivers read it: the
heads, the MLPs, the logits. The stream is a sum, so a sender reaches every receiver that reads after it has written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, UnknownSiteError
from mechsteer.models import backend_of
from mechsteer.models.reads import norm_of
from mechsteer.models.sites import Site

SOURCE, SINK = "intervention", "logits"
_WRITTEN = {"resid_pre": 0, "resid_mid": 1, "attn_out": 1, "o_out": 1, "mlp_out": 2, "down_out": 2, "resid_post": 2}


@dataclass(frozen=True)
class Node:
    """An attention head or an MLP."""

    kind: str  # "head" or "mlp"
    layer: int
    head: int | None
    reads_at: int  # times within one forward, two a layer
    writes_at: int

    def __str__(self) -> str:
        return f"head {self.layer}.{self.head}" if self.kind == "head" else f"mlp {self.layer}"


@dataclass(frozen=True)
class PathGraph:
    """Nodes behind `site`. Sender 0 is the intervention, sender i + 1 node i; receiver i is node i, the last the logits."""

    site: Site
    nodes: tuple[Node, ...]
    written_at: int  # when the intervention is in the stream

    @property
    def senders(self) -> tuple[str, ...]:
        """Names in order."""
        return (SOURCE, *map(str, self.nodes))

    @property
    def receivers(self) -> tuple[str, ...]:
        """Names in order."""
        return (*map(str, self.nodes), SINK)

    @cached_property
    def allowed(self) -> Tensor:
        """[n_senders n_receivers] True where there is an edge."""
        written = torch.tensor([self.written_at, *(n.writes_at for n in self.nodes)])
        read = torch.tensor([*(n.reads_at for n in self.nodes), 10**9])
        return written[:, None] <= read[None, :]

    @cached_property
    def edges(self) -> Tensor:
        """[n_edges 2] (sender, receiver) of every edge."""
        return self.allowed.nonzero()

    @cached_property
    def layers(self) -> dict[int, tuple[list[int], int | None]]:
        """layer -> (nodes of its heads, node of its MLP)."""
        found: dict[int, tuple[list[int], int | None]] = {}
        for i, node in enumerate(self.nodes):
            heads, mlp = found.get(node.layer, ([], None))
            found[node.layer] = ([*heads, i], mlp) if node.kind == "head" else (heads, i)
        return found

    def random_paths(self, k: int, generator: torch.Generator) -> list[tuple[int, int]]:
        """`k` distinct edges made of whole paths from the intervention to the logits, each step uniform.

        Edges drawn one by one hardly ever touch each other, and what does not reach the logits has no effect: a null
        of that kind is beaten by anything. The last path may be cut short; more than half of all edges are drawn one by
        one.
        """
        n = len(self.nodes)
        k = min(k, len(self.edges))
        chosen: dict[tuple[int, int], None] = {}
        if 2 * k > len(self.edges):  # nearly all of them: paths would find the last ones slowly
            order = torch.randperm(len(self.edges), generator=generator)[:k]
            return [(int(s), int(r)) for s, r in self.edges[order].tolist()]
        while len(chosen) < k:
            sender = 0
            while sender <= n:
                onward = self.allowed[sender].nonzero()[:, 0]
                receiver = int(onward[torch.randint(len(onward), (1,), generator=generator)])
                chosen[(sender, receiver)] = None
                sender = receiver + 1  # the logits' own number ends the path
        return list(chosen)[:k]


def path_graph(model: Any, site: Site) -> PathGraph:
    """The graph behind `site`; raises ConfigError where the site or the model does not add into one pre-norm stream."""
    backend = backend_of(model)
    layer, point = int(site.at(model).layer), site.point
    if point not in _WRITTEN:
        raise ConfigError(
            f"{site} does not write into the residual stream",
            f"paths begin at one of {sorted(_WRITTEN)}; what is written at z or v arrives there as attn_out",
        )
    if str(getattr(model.cfg, "attention_dir", "causal")) != "causal":
        raise ConfigError("this model attends in both directions", "paths are traced in causal models")
    forked = [name for name in ("use_attn_in", "use_split_qkv_input") if getattr(model.cfg, name, False)]
    if forked:
        raise ConfigError(f"this model runs with {forked}", "turn them off: paths give every head a read of its own")
    parallel = bool(getattr(model.cfg, "parallel_attn_mlp", False))  # then both parts of a block read what came in
    written_at = 2 * layer + _WRITTEN[point]
    nodes: list[Node] = []
    for here in range(model.cfg.n_layers):
        block = model.blocks[here]
        _require_prenorm(model, here)
        if not all(backend.names.has_hook(f"blocks.{here}.attn.{h}") for h in ("hook_z", "hook_q", "hook_k")):
            raise ConfigError(f"layer {here} has no attention heads", "paths are traced in transformers alone")
        if 2 * here >= written_at:
            nodes += [Node("head", here, h, 2 * here, 2 * here + 1) for h in range(model.cfg.n_heads)]
        read_at = 2 * here + (0 if parallel else 1)
        if getattr(block, "mlp", None) is not None and read_at >= written_at:
            nodes.append(Node("mlp", here, None, read_at, 2 * here + 2))
    return PathGraph(site, tuple(nodes), written_at)


def _require_prenorm(model: Any, layer: int) -> None:
    block = model.blocks[layer]
    needed = ["ln1", "ln2"] if getattr(block, "mlp", None) is not None else ["ln1"]
    missing = [name for name in needed if norm_of(model, layer, name) is None]
    after = [name for name in ("ln1_post", "ln2_post") if getattr(block, name, None) is not None]
    if missing or after or norm_of(model, None) is None:
        what = f"has no {missing or 'ln_final'}" if missing or not after else f"normalises its outputs ({after})"
        raise ConfigError(
            f"layer {layer} of this model {what}", "paths need a norm of its own in front of every part, none behind"
        )


def hook(model: Any, layer: int, point: str) -> str:
    """Name of a hook that paths write; raises ConfigError where this class has none to write."""
    try:
        return Site(layer, point).resolve(model, write=True)
    except UnknownSiteError as error:
        raise ConfigError(f"{point} of layer {layer} cannot be written here", "paths cannot be traced") from error
