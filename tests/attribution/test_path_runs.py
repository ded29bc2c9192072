"""Runs with parts held: against the plain runs, against each other, against hooks of the class's own; flows."""

from __future__ import annotations

import pytest
import torch

import mechsteer as ms
from mechsteer.attribution import metrics
from mechsteer.attribution.path_flow import flow
from mechsteer.attribution.path_graph import path_graph
from mechsteer.attribution.path_runs import PathRuns
from mechsteer.attribution.replay import prepare
from mechsteer.models import backend_of
from mechsteer.runtime.batches import pad_rows
from tests import toys
from tests.attribution.toy_adapters import PROMPTS, Linear, vector

ODDS = metrics.log_odds(10, [20, 21])
KINDS = [
    ("bridge-llama", ms.Site(0, "resid_post")),
    ("bridge-qwen3", ms.Site(0, "attn_out")),
    ("bridge-gpt2", ms.Site(0, "resid_pre")),
    ("bridge-neox", ms.Site(0, "mlp_out")),
    ("compat-llama", ms.Site(1, "resid_pre")),
    ("compat-gpt2", ms.Site(0, "attn_out")),
    ("hooked-qwen3", ms.Site(0, "resid_post")),
    ("hooked-gpt2", ms.Site(0, "resid_mid")),
    ("hooked-neox", ms.Site(0, "resid_pre")),
    ("native", ms.Site(0, "mlp_out")),
]


def runs_of(model, site, iv=None, metric=ODDS) -> PathRuns:
    iv = ms.Intervention(Linear(size=0.05), site) if iv is None else iv
    runner = prepare(model, iv, PROMPTS, None, metric, None, len(PROMPTS))
    return PathRuns(runner, path_graph(model, site), runner.batches[0], {})


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def runs(request, model_of) -> PathRuns:
    kind, site = request.param
    return runs_of(toys.native() if kind == "native" else model_of(kind), site)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def everything(runs: PathRuns, value: bool) -> torch.Tensor:
    return torch.full((runs.n_rows, len(runs.graph.nodes) + 1), value)


def test_nothing_held_is_steered_and_everything_held_is_base(runs):
    each, allowed = runs.each, runs.graph.allowed.expand(runs.n_rows, -1, -1)
    assert float((each.steered - each.base).abs().max()) > 1e-2
    assert torch.equal(runs.base_metric, each.base)
    close(runs.nodes(everything(runs, True)), each.steered)
    close(runs.edges(allowed), each.steered)
    close(runs.nodes(everything(runs, False)), each.base)
    close(runs.edges(allowed & False), each.base)
    close(runs.patterns([]), each.steered)


def test_a_node_is_held_by_cutting_what_enters_or_what_leaves_it(runs):
    """Another set in every row; the direct path is the edge from the intervention to the logits."""
    n = len(runs.graph.nodes)
    answers = torch.rand(runs.n_rows, n + 1, generator=torch.Generator().manual_seed(0)) < 0.5
    wanted = runs.nodes(answers)
    assert float((wanted - runs.each.steered).abs().max()) > 1e-3
    for cut_receivers in (True, False):
        kept = runs.graph.allowed.repeat(runs.n_rows, 1, 1)
        for row, node in (~answers).nonzero().tolist():
            if node == n:
                kept[row, 0, n] = False
            elif cut_receivers:
                kept[row, :, node] = False
            else:
                kept[row, node + 1] = False
        close(runs.edges(kept), wanted)


def test_heads_and_mlps_add_up_to_the_stream(runs):
    """z through W_O, MLP outputs and the delta are all that changes; per layer, the heads are the attention's output."""
    model, found = runs.runner.model, runs.trace(1.0)[0]
    change = runs.delta.clone()
    for layer, (heads, mlp) in runs.graph.layers.items():
        if heads:
            whole = []
            remove = backend_of(model).runner.attach(f"blocks.{layer}.hook_attn_out", whole.append)
            runs.run(None), runs.run(runs.delta)
            remove()
            answer = torch.einsum("bphk,dhk->bpd", found.z[layer] - runs.base.z[layer], runs.out_weight(layer))
            torch.testing.assert_close(answer, whole[1] - whole[0], rtol=1e-4, atol=1e-4)
            change += answer
        if mlp is not None:
            change += found.mlp[layer] - runs.base.mlp[layer]
    torch.testing.assert_close(change, found.final - runs.base.final, rtol=1e-4, atol=1e-4)


def test_held_patterns_are_those_of_the_base_run(runs):
    model, layers = runs.runner.model, list(runs.base.q)
    seen: dict[str, list] = {}
    for name in ("base", "steered", "held"):
        seen[name] = []
        removes = [
            backend_of(model).runner.attach(f"blocks.{layer}.attn.hook_pattern", seen[name].append) for layer in layers
        ]
        if name == "held":
            value = runs.patterns(layers)
        else:
            runs.run(runs.delta if name == "steered" else None)
        for remove in removes:
            remove()
    real = runs.each.batch.mask[:, None, :, None]
    for base, steered, held in zip(*seen.values(), strict=True):
        torch.testing.assert_close(held * real, base * real, rtol=1e-5, atol=1e-6)
        assert float((steered * real - base * real).abs().max()) > 1e-4
    assert float((value - runs.each.steered).abs().max()) > 1e-5


def reads_hooked(model) -> int:
    norms = [model.ln_final, *(norm for block in model.blocks for norm in (block.ln1, block.ln2))]
    return sum(len(norm._forward_pre_hooks) for norm in norms)  # a bridge has some of its own


def test_the_model_is_the_same_afterwards(runs):
    model = runs.runner.model
    tokens = torch.tensor([PROMPTS[3]])
    before, left = model(tokens), (toys.hooks_left(model), reads_hooked(model))
    kept = runs.graph.allowed & (torch.rand(runs.graph.allowed.shape) < 0.5)
    runs.edges(kept.expand(runs.n_rows, -1, -1))
    runs.nodes(everything(runs, False))
    flow(runs, 1)
    assert torch.equal(model(tokens), before)
    assert (toys.hooks_left(model), reads_hooked(model)) == left
    assert not any("forward" in block.__dict__ for block in model.blocks)


def test_an_edge_is_held_as_a_hook_of_the_class_would(model_of):
    """On a raw bridge the norms' own hooks change what one part reads: the intervention hidden from it there."""
    model, site = model_of("bridge-llama"), ms.Site(0, "resid_post")
    v = vector(3)
    iv = ms.Intervention(ms.adapters.Static(v), site)
    runs = runs_of(model, site, iv)
    numbers = {name: i for i, name in enumerate(runs.graph.receivers)}
    tokens, mask = pad_rows(PROMPTS, 257, align="left")
    for hook, receivers in (("ln2.hook_in", ["mlp 1"]), ("ln1.hook_in", [f"head 2.{h}" for h in range(4)])):
        kept = runs.graph.allowed.repeat(runs.n_rows, 1, 1)
        for receiver in receivers:
            kept[:, 0, numbers[receiver]] = False
        layer = receivers[0].split(" ")[1][0]
        with torch.no_grad(), ms.steer(model, iv):
            remove = backend_of(model).runner.attach(f"blocks.{layer}.{hook}", lambda acts: acts - v)
            logits = model(tokens, attention_mask=mask.long())
            remove()
        close(runs.edges(kept), ODDS(logits, tokens, mask)[runs.each.batch.rows])


@pytest.mark.parametrize("kind", ["bridge-gpt2", "hooked-neox"])
def test_flow_is_conserved_and_adds_up(model_of, kind):
    """What leaves the intervention, what arrives, what enters and leaves each node: all the same, up to the steps."""
    runs = runs_of(model_of(kind, double=True), ms.Site(0, "resid_post"))
    effect = runs.each.steered - runs.each.base
    errors = []
    for steps in (4, 16):
        found = flow(runs, steps)
        ends = [found.arrived - effect, found.edges[:, 0].sum(1) - effect]
        errors.append(max(float(end.abs().max()) for end in ends))
        # what leaves a node is its own change times the gradient at it, whatever the number of steps
        torch.testing.assert_close(found.edges[:, 1:].sum(2), found.through, rtol=1e-9, atol=1e-12)
        inward = found.edges[:, :, :-1].sum(1) - found.through
        errors[-1] = max(errors[-1], float(inward.abs().max()))
    assert errors[1] < 5e-3 * float(effect.abs().max())
    assert errors[1] < errors[0] / 8  # the middle rule: an error that falls with the square of the steps
    assert not bool((found.edges.mean(0).abs() > 0)[~runs.graph.allowed].any())


def test_flow_through_queries_and_keys_is_what_frozen_values_leave(model_of):
    """Where values cannot change, all of a head's flow goes through its pattern; where patterns cannot, none does."""
    for frozen, other in ((("v",), 1.0), (("q", "k"), 0.0)):
        model = toys.load("gpt2", dtype=torch.float64)
        for layer in range(1, 3):
            for name in frozen:
                weight = backend_of(model).weights.map_weight(layer, name)
                backend_of(model).weights.set_weight(layer, name, torch.zeros_like(weight))
        if frozen == ("v",):  # values that differ by position, and read nothing
            for layer in (1, 2):
                noise = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(layer)).double()
                name = ms.Site(layer, "v").resolve(model)
                backend_of(model).runner.attach(
                    name, lambda acts, noise=noise: acts + noise[:, : acts.shape[1]].reshape(1, -1, *acts.shape[2:])
                )
        runs = runs_of(model, ms.Site(0, "resid_post"))
        found = flow(runs, 16)
        heads = [i for i, node in enumerate(runs.graph.nodes) if node.kind == "head"]
        assert float(found.through[:, heads].abs().max()) > 1e-3
        torch.testing.assert_close(found.queries_keys[:, heads], other * found.through[:, heads], rtol=0.02, atol=2e-3)
