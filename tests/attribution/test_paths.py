"""attribute_paths: a linear model by algebra, planted paths, refusals, the result."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tqdm.auto import tqdm
from transformers import Gemma2Config, Gemma2ForCausalLM

import mechsteer as ms
from mechsteer.attribution import metrics
from mechsteer.attribution.path_check import Members, Shares, curve, halves
from mechsteer.attribution.path_graph import path_graph
from mechsteer.errors import ConfigError, DataError
from mechsteer.models import backend_of
from mechsteer.planted.paths import planted_path
from tests import toys
from tests.attribution.toy_adapters import PROMPTS, Linear, vector

SITE, ODDS = ms.Site(0, "resid_post"), metrics.log_odds(10, 20)
QUICK = {"k": (2,), "n_random": 1, "n_bootstrap": 50, "integrated": 2}


def static(v: torch.Tensor, site: ms.Site = SITE, **settings) -> ms.Intervention:
    return ms.Intervention(ms.adapters.Static(v), site, **settings)


# -- algebra


def linear_model():
    """No norms, uniform attention, MLPs whose ReLUs are always on: everything is linear in the intervention."""
    model = toys.native(
        normalization_type=None, final_rms=False, act_fn="relu", gated_mlp=False, scale=2.0, dtype=torch.float64
    )
    weights = backend_of(model).weights
    for layer in range(3):
        weights.set_weight(layer, "k", torch.zeros(32, 32, dtype=torch.float64))
        weights.set_bias(layer, "k", torch.zeros(32, dtype=torch.float64))
        high = torch.full((48,), 1e3, dtype=torch.float64)
        weights.set_bias(layer, "up", high)
        weights.set_bias(layer, "down", -weights.map_weight(layer, "down") @ high)
    return model


def by_algebra(model, delta: torch.Tensor, readout: torch.Tensor) -> dict[tuple[str, str], float]:
    """Effect of every edge: what a sender's change at a receiver's input alone does to the last position's logits."""
    weights = backend_of(model).weights
    n = delta.shape[0]
    uniform = torch.tril(torch.ones(n, n, dtype=torch.float64))
    uniform /= uniform.sum(1, keepdim=True)
    order, maps = [], {}
    for layer in (1, 2):
        value, out = (weights.map_weight(layer, name) for name in ("v", "o"))
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            maps[f"head {layer}.{head}"] = (uniform, out[:, part] @ value[part])
        maps[f"mlp {layer}"] = (
            torch.eye(n).double(),
            weights.map_weight(layer, "down") @ weights.map_weight(layer, "up"),
        )
        order += [[f"head {layer}.{head}" for head in range(4)], [f"mlp {layer}"]]

    def pushed(name: str, change: torch.Tensor) -> torch.Tensor:
        mix, matrix = maps[name]
        return mix @ change @ matrix.T

    def arrives(step: int, change: torch.Tensor) -> float:
        """Effect of a change of the stream in front of `order[step]`."""
        for names in order[step:]:
            change = change + sum(pushed(name, change) for name in names)
        return float(change[-1] @ readout)

    effects, stream, senders = {}, delta, {"intervention": delta}
    for step, names in enumerate(order):
        for sender, change in senders.items():
            for name in names:
                effects[sender, name] = arrives(step + 1, pushed(name, change))
        new = {name: pushed(name, stream) for name in names}
        senders |= new
        stream = stream + sum(new.values())
    return effects | {(sender, "logits"): float(change[-1] @ readout) for sender, change in senders.items()}


def test_a_linear_model_adds_up_exactly_and_as_algebra_says():
    model = linear_model()
    prompts = [toys.prompts(6, seed=i)[0] for i in range(4)]
    v = vector(3).double()
    readout = model.unembed.original_component.weight[10] - model.unembed.original_component.weight[20]
    eff = ms.attribute_paths(
        model, static(v), prompts, metrics.log_odds(10, 20), k=(3, 99), n_random=2, integrated=1, batch_size=3
    )
    wanted = by_algebra(model, v.expand(6, -1), readout.double())
    scale = max(map(abs, wanted.values()))
    found = {(row["sender"], row["receiver"]): row for row in eff.edges.to_dict("records")}
    assert eff.n_edges == len(found) == len(wanted)
    for edge, effect in wanted.items():
        assert found[edge]["effect"] == pytest.approx(effect, abs=1e-8 * scale)
        # nothing answers nonlinearly: what a part carries is what is lost without it
        assert found[edge]["lost"] == pytest.approx(effect / eff.total, abs=1e-8 * scale / abs(eff.total))
    nodes = eff.frame().set_index("node")
    np.testing.assert_allclose(nodes["lost"], nodes["share"], atol=1e-7)
    assert nodes["last"].sum() == pytest.approx(1, abs=1e-8)
    assert nodes["first"].sum() == pytest.approx(1, abs=1e-8)
    assert eff.residual_share == pytest.approx(0, abs=1e-8)
    assert eff.unsent_share == pytest.approx(0, abs=1e-8)
    assert eff.needs_patterns.value == pytest.approx(0, abs=1e-8)
    assert nodes["queries_keys"].abs().max() < 1e-8
    for check in (eff.node_check, eff.edge_check):
        last = check.iloc[-1]
        assert last[["sufficiency", "necessity", "random_sufficiency"]].to_numpy(float) == pytest.approx(1, abs=1e-8)


# -- planted paths


@pytest.mark.parametrize("by_pattern", [False, True])
def test_planted_paths_are_found(by_pattern):
    """Recall of the path's nodes and edges among as many top ones, and whether attention had to move."""
    nodes, edges, sufficiency, decoys = [], [], [], []
    for seed in range(10):
        case = planted_path(seed, by_pattern=by_pattern)
        n = len(case.nodes)
        eff = ms.attribute_paths(
            case.model, case.intervention, case.prompts, case.metric, k=(n + 1,), n_random=1, integrated=2
        )
        assert len(case.edges) >= 3
        first = eff.frame().set_index("node").loc[case.nodes[0]]
        nodes.append(len({*case.nodes} & {*eff.nodes["node"][:n]}) / n)
        found = set(map(tuple, eff.top(n + 1)[["sender", "receiver"]].to_numpy()))
        edges.append(len({*case.edges} & found) / len(case.edges))
        sufficiency.append(eff.edge_check["sufficiency"].iloc[0])
        decoys.append(eff.nodes["share"].abs().iloc[n])
        assert eff.needs_patterns.value == pytest.approx(float(by_pattern), abs=0.05)
        assert first["queries_keys"] == pytest.approx(first["share"] * by_pattern, abs=0.05)
    assert np.mean(nodes) >= 0.95
    assert np.mean(edges) >= 0.95
    assert np.median(sufficiency) == pytest.approx(1, abs=0.1)
    assert max(decoys) < 0.1


def test_what_is_ranked_on_one_half_is_checked_on_the_other():
    """Member 0 has its effects in one half of the prompts, member 1 in the other."""
    first = halves(8, seed=3)
    assert int(first.sum()) == 4
    effects = torch.zeros(8, 3, dtype=torch.float64)
    effects[first, 0], effects[~first, 1] = 5.0, 5.0
    asked = []

    class Runner:
        def in_order(self, values):
            return torch.cat(values)

    class Runs:
        class each:
            class batch:
                rows = torch.arange(8)

    def run(_, chosen):
        asked.append(chosen)
        return chosen[:, 0].double()

    members = Members(effects, run, lambda k, generator: torch.randperm(3, generator=generator)[:k])
    shares = Shares(Runner(), [Runs()], np.zeros(8), np.ones(8), np.full((5, 8), 1 / 8))
    table = curve(members, shares, (1,), 2, first, 0, tqdm(disable=True))
    assert torch.equal(asked[0][:, 0], ~first)  # chosen where its effects are not
    assert torch.equal(asked[0][:, 1], first)
    assert torch.equal(asked[1], ~asked[0])
    assert table["sufficiency"].iloc[0] == pytest.approx(0.5)


def test_random_sets_of_edges_are_whole_paths(model_of):
    graph = path_graph(model_of("bridge-gpt2"), SITE)
    for seed in range(20):
        edges = graph.random_paths(9, torch.Generator().manual_seed(seed))
        assert len(set(edges)) == 9
        assert all(graph.allowed[edge] for edge in edges)
        reached = {0, *(receiver + 1 for _, receiver in edges)}
        assert {sender for sender, _ in edges} <= reached
    assert len(set(graph.random_paths(10**6, torch.Generator().manual_seed(0)))) == len(graph.edges)


# -- the result


def test_a_real_result(model_of):
    model = model_of("bridge-qwen3")
    eff = ms.attribute_paths(model, static(vector(1, 0.5)), PROMPTS * 2, ODDS, k=(1, 4), n_random=3)
    assert ms.PathAttribution.from_dict(eff.to_dict()) == eff
    assert eff.metric == "log odds"
    assert eff.is_resolved
    assert len(eff.nodes) == 11
    assert eff.nodes["share"].abs().is_monotonic_decreasing
    assert eff.top(3)["share"].abs().is_monotonic_decreasing
    assert list(eff.patterns["layer"]) == ["all", "1", "2"]
    assert eff.node_check["random_sufficiency_low"].notna().all()
    assert eff.nodes["lost"].notna().sum() == eff.edges["lost"].notna().sum() == 4
    again = ms.attribute_paths(model, static(vector(1, 0.5)), PROMPTS * 2, ODDS, k=(1, 4), n_random=3)
    assert again == eff


def test_the_last_layer_leaves_the_direct_path_alone(model_of):
    eff = ms.attribute_paths(
        model_of("bridge-llama"), static(vector(2), ms.Site(2, "resid_post")), PROMPTS, ODDS, **QUICK
    )
    assert list(eff.nodes["node"]) == ["direct"]
    assert eff.nodes["lost"].iloc[0] == pytest.approx(1, abs=1e-4)
    assert np.isnan(eff.needs_patterns.value)


def test_more_steps_where_flows_do_not_add_up(model_of):
    iv = static(vector(3, 2.0), ms.Site(0, "resid_pre"))
    eff = ms.attribute_paths(model_of("bridge-gpt2"), iv, PROMPTS, ODDS, **QUICK)
    assert 2 < eff.settings.integrated <= 16


@pytest.mark.parametrize("iv", [static(vector(), coeff=0.0), static(torch.zeros(32))])
def test_without_an_effect_there_is_nothing_to_attribute(model_of, iv):
    eff = ms.attribute_paths(model_of("bridge-llama"), iv, PROMPTS, ODDS, **QUICK)
    assert eff.nothing_to_attribute
    assert "holds 0" in eff.reason
    assert eff.nodes["share"].isna().all()
    assert eff.node_check["sufficiency"].isna().all()
    assert isinstance(eff.to_dict(), dict)


# -- other sites, refusals


def test_other_sites_of_a_steering_stay_as_they_are(model_of):
    """Constant ones; one that answers to the traced site is refused, for its answer is no path of the model."""
    model, late = model_of("bridge-llama"), ms.Site(1, "resid_post")
    fixed = [static(vector(2)), static(vector(5), late)]
    eff = ms.attribute_paths(model, fixed, PROMPTS, ODDS, site=SITE, **QUICK)
    with torch.no_grad(), ms.steer(model, fixed[1:]):
        logits = model(torch.tensor([PROMPTS[0]]))
    assert float(eff.base[0]) == pytest.approx(float(logits[0, -1, 10] - logits[0, -1, 20]), abs=1e-4)
    assert eff.settings.held == (late,)
    answering = [fixed[0], ms.Intervention(Linear(size=0.3), late)]
    with pytest.raises(ConfigError, match="answer to the one at resid_post@0"):
        ms.attribute_paths(model, answering, PROMPTS, ODDS, site=SITE, **QUICK)


def gemma2():
    config = Gemma2Config(
        vocab_size=toys.D_VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        attn_implementation="eager",
    )
    return ms.load_model(Gemma2ForCausalLM(config).eval().requires_grad_(False), tokenizer=toys.tokenizer())


def test_refusals(model_of):
    model = model_of("bridge-llama")
    with pytest.raises(ConfigError, match="does not write into the residual stream"):
        ms.attribute_paths(model, static(vector(), ms.Site(0, "z")), PROMPTS, ODDS)
    with pytest.raises(ConfigError, match="normalises its outputs"):
        ms.attribute_paths(gemma2(), static(vector()), PROMPTS, ODDS)
    with ms.steer(model, static(vector())), pytest.raises(ConfigError, match="steer block is open"):
        ms.attribute_paths(model, static(vector()), PROMPTS, ODDS)
    with pytest.raises(DataError, match="at least four"):
        ms.attribute_paths(model, static(vector()), PROMPTS[:3], ODDS)
    with pytest.raises(ConfigError, match="all are positive"):
        ms.attribute_paths(model, static(vector()), PROMPTS, ODDS, n_random=0)
    with pytest.raises(ConfigError, match="differentiably"):
        ms.attribute_paths(model, static(vector()), PROMPTS, lambda logits, *_: logits.argmax(-1)[:, -1].double())


def test_a_stream_that_is_no_sum_is_refused():
    model = toys.load("llama")
    backend_of(model).runner.attach("blocks.1.hook_mlp_out", lambda acts: acts)  # no harm
    static_iv = static(vector())
    ms.attribute_paths(model, static_iv, PROMPTS, ODDS, **QUICK)
    remove = backend_of(model).runner.attach("blocks.1.hook_resid_post", lambda acts: 0.5 * acts)
    with pytest.raises(ConfigError, match="does not add up to this model's residual stream"):
        ms.attribute_paths(model, static_iv, PROMPTS, ODDS, **QUICK)
    remove()


def test_the_section_names_the_metric_and_the_share_that_needs_patterns(model_of):
    eff = ms.attribute_paths(model_of("bridge-llama"), static(vector(2)), PROMPTS * 2, ODDS, k=(2,), n_random=2)
    page = eff._repr_html_()
    assert "Where the effect goes" in page
    assert "log odds" in page
    assert f"{round(eff.needs_patterns.value, 3) + 0.0:.3f}".replace("-", "−") in page  # no sign in front of a zero
    assert "needs attention patterns to change" in page
    assert "Random sets of the same size recover" in page
    assert isinstance(eff.frame(), pd.DataFrame)
