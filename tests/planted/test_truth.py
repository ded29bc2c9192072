"""Truths by algebra and by plain hooks: what is measured is what was planted."""

import pytest
import torch

import mechsteer as ms
from mechsteer.adapters import Static
from mechsteer.errors import ConfigError
from mechsteer.models.native import native_model
from mechsteer.planted import FAMILIES, TRAINABLE, Subsets, exact_shapley, measure, plant
from mechsteer.planted.blueprint import NEGATIVE, POSITIVE, Blueprint

QUICK = tuple(name for name in FAMILIES if name not in ("rank_one", "pocket"))  # these search their model first


def odds(model, contexts, vector=None):
    """Mean log-odds at the last token, with TransformerLens' own hooks."""

    def add(acts, hook):
        return acts + vector

    hooks = [] if vector is None else [("blocks.0.hook_resid_post", add)]
    with torch.no_grad():
        log_p = model.run_with_hooks(torch.tensor(contexts), fwd_hooks=hooks)[:, -1].double().log_softmax(-1)
    return float((log_p[:, POSITIVE] - log_p[:, NEGATIVE]).mean())


def test_shapley_values_of_a_known_game():
    def value(players):  # 0 gives 3 alone, 1 and 2 give 4 together
        return 3.0 * (0 in players) + 4.0 * ({1, 2} <= set(players))

    torch.testing.assert_close(exact_shapley(value, 4), torch.tensor([3.0, 2, 2, 0], dtype=torch.float64))
    with pytest.raises(ConfigError, match="11 players"):
        exact_shapley(value, 11)


def test_linear_effects_add_up_and_are_what_the_weights_say():
    case = plant("linear", 3, "overcomplete")
    truth, rows = case.truth, case.basis.directions[list(case.planted)].double()
    head = case.model.unembed.weight.double()
    head = head if head.shape[0] > head.shape[1] else head.T  # [d_model d_vocab]
    read = head[:, POSITIVE] - head[:, NEGATIVE]
    by_weights = (rows @ case.intervention.adapter.vector.double()) * (rows @ read)
    for measured in (truth.alone, truth.removed, truth.shapley):
        torch.testing.assert_close(measured, by_weights, rtol=1e-4, atol=1e-5)
    assert float(truth.alone.sum()) == pytest.approx(truth.total, rel=1e-5)
    assert abs(truth.others) < 1e-5


@pytest.mark.parametrize("family", ["relu", "saturated", "and", "decoys"])
def test_subsets_are_what_plain_hooks_give(family):
    case = plant(family, 1)
    vector = case.intervention.adapter.vector.detach()
    base = odds(case.model, case.contexts)
    assert case.truth.total == pytest.approx(odds(case.model, case.contexts, vector) - base, abs=1e-5)
    for i, place in enumerate(case.planted):
        row = case.basis.directions[place]
        part = (vector @ row) * row
        alone, without = (odds(case.model, case.contexts, v) - base for v in (part, vector - part))
        assert float(case.truth.alone[i]) == pytest.approx(alone, abs=1e-5)
        assert float(case.truth.removed[i]) == pytest.approx(case.truth.total - without, abs=1e-5)


def test_and_needs_both_and_or_needs_one():
    both, either = plant("and", 0).truth, plant("or", 0).truth
    assert both.alone.abs().max() < 1e-5
    torch.testing.assert_close(both.shapley, both.removed / 2, rtol=1e-3, atol=1e-4)
    assert either.removed.abs().max() < 0.1 * float(either.alone.min())
    assert either.shapley.min() > 0.2


def test_saturated_has_no_gradient_at_either_end():
    case = plant("saturated", 0)
    vector = case.intervention.adapter.vector.detach()
    for strength in (0.0, 1.0):
        leaf = (strength * vector).requires_grad_()
        with ms.steer(case.model, ms.Intervention(_Leaf(leaf), case.intervention.site)):
            logits = case.model(torch.tensor(case.contexts))[:, -1]
        (slope,) = torch.autograd.grad((logits[:, POSITIVE] - logits[:, NEGATIVE]).mean(), leaf)
        assert float((slope * vector).abs().sum()) < 1e-3 * case.truth.total


class _Leaf(Static):
    def __init__(self, leaf):
        torch.nn.Module.__init__(self)
        self.vector = leaf


@pytest.mark.parametrize("family", QUICK)
def test_every_family_is_a_function_of_its_seed_and_says_what_is_so(family):
    case, again = (plant(family, 5, "overcomplete") for _ in range(2))
    assert torch.equal(case.basis.directions, again.basis.directions)
    assert case.truth == again.truth
    assert type(case.truth).from_dict(case.truth.to_dict()) == case.truth
    assert not torch.equal(case.basis.directions, plant(family, 6, "overcomplete").basis.directions)
    if family == "nulls":
        assert abs(case.truth.total) < 1e-4
        assert case.planted == ()
        return
    total, shapley = case.truth.total, case.truth.shapley
    assert abs(total) > 0.1
    assert float(shapley.sum()) + case.truth.others == pytest.approx(total, rel=1e-4, abs=1e-4)
    assert len(set(case.planted)) == len(case.planted) > 0
    if family != "superposed":  # where features overlap, nothing is inert
        assert case.truth.decoys_alone.abs().max() < 1e-3 * abs(total)
        assert float(shapley.abs().min()) > 0.02 * float(shapley.abs().sum())
    assert sorted(case.planted) != list(range(len(case.planted)))  # shuffled


@pytest.mark.parametrize("family", [name for name in TRAINABLE if name != "superposed"])
def test_what_a_trained_vector_learned_is_what_was_planted(family):
    case = plant(family, 1, trained=True)
    assert case.learned >= 0.75
    assert abs(case.truth.total) > 2
    assert abs(case.truth.others) < 0.02 * abs(case.truth.total)  # nothing else was learned


def test_rank_one_writes_are_a_change_of_the_map():
    case = plant("rank_one", 0)
    iv, map_of = case.intervention, ms.models.backend_of(case.model).weights
    weight = map_of.map_weight(iv.site.layer, "down")
    tokens = torch.tensor(case.contexts)
    with torch.no_grad():
        with ms.steer(case.model, iv):
            steered = case.model(tokens)
        undo = map_of.set_weight(iv.site.layer, "down", weight + iv.adapter.weight_change(1.0, weight))
        changed = case.model(tokens)
        undo()
    torch.testing.assert_close(steered, changed, rtol=1e-3, atol=1e-3)
    assert case.truth.shapley.abs().min() > 3 * case.truth.decoys_alone.abs().max()


def test_the_rest_of_a_delta_is_a_player_too():
    case = plant("linear", 0)
    rows = case.basis.directions[list(case.planted)]
    first, none = rows[:1], rows[:0]
    truth = measure(case.model, case.intervention, case.contexts, case.metric, first, none)
    assert truth.others == pytest.approx(truth.total - float(truth.shapley[0]), abs=1e-5)
    subsets = Subsets(case.model, case.intervention, case.contexts, case.metric, rows)
    assert subsets.span(rows) == pytest.approx(case.truth.total, rel=1e-4)


def test_bad_input():
    with pytest.raises(ConfigError, match="no family 'liner'"):
        plant("liner", 0)
    with pytest.raises(ConfigError, match="no dictionary 'huge'"):
        plant("linear", 0, "huge")
    with pytest.raises(ConfigError, match="'saturated' cannot be trained"):
        plant("saturated", 0, trained=True)
    embed = torch.randn(5, 8)
    with pytest.raises(ms.errors.ModelLoadError, match="is \\[5, 8\\]"):
        native_model(
            {"d_model": 4, "n_layers": 1, "n_heads": 1, "d_head": 4, "n_ctx": 4, "d_vocab": 5}, {"embed.W_E": embed}
        )
    with pytest.raises(ms.errors.ModelLoadError, match="no weight 'wte'"):
        native_model({"d_model": 8, "n_layers": 1, "n_heads": 1, "d_head": 4, "n_ctx": 4, "d_vocab": 5}, {"wte": embed})


def test_a_blueprint_computes_what_was_drawn():
    embed = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = torch.eye(8, dtype=torch.float64)
    drawn = Blueprint(embed, n_layers=3)
    drawn.spread(0, axes[:2], axes[2:4])
    drawn.clear(1, axes[4])
    drawn.neuron(1, axes[0], -0.1, 2 * axes[4])
    drawn.odds(axes[4] + axes[2])
    tokens = torch.tensor([[3, 1, 5]])
    with torch.no_grad():
        logits = drawn.build()(tokens)[0, -1].double()
    h = embed[tokens[0]]
    expected = 2 * (h[-1, 0] - 0.1).relu() + h[-1, 2] + h[:, 0].mean()
    assert float(logits[POSITIVE] - logits[NEGATIVE]) == pytest.approx(float(expected), abs=1e-5)
