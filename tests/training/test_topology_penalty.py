"""The topology predictor and the penalty that it makes: off by default, with gradients, of the steered trajectory."""

from __future__ import annotations

import math

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.models import tokenize
from mechsteer.runtime.batches import Sample
from mechsteer.signals import WindowedH0
from mechsteer.training import CrossEntropy, FitConfig, TopologyPenalty, TopologyPredictor, fit, pretrain_topology
from mechsteer.training.parts import Forwards
from tests.training.training_toys import blank

W = 6


def walks(n=60, seed=0):
    """Steady walks, and walks with jumps."""
    generator = torch.Generator().manual_seed(seed)
    scale = (torch.randn(n, 20, 1, generator=generator) * torch.rand(n, 1, 1, generator=generator) * 2).exp()
    return list((scale * torch.randn(n, 20, 8, generator=generator)).cumsum(1))


@pytest.fixture(scope="module")
def predictor():
    return pretrain_topology(walks(), window=W, epochs=200)


@torch.no_grad()
def test_it_predicts_entropies_of_trajectories_that_it_has_not_seen(predictor):
    assert predictor.explained > 0.7
    unseen = torch.stack(walks(seed=9))
    exact, told = WindowedH0(W)(unseen)[0][:, W - 1 :], predictor(unseen)
    assert told[:, : W - 1].isnan().all()
    assert (told[:, W - 1 :] - exact).square().mean() < 0.3 * exact.var()
    assert not any(p.requires_grad for p in predictor.parameters())


@torch.no_grad()
def test_padding_moves_nothing(predictor):
    (row,) = walks(1, seed=3)
    batch, mask = torch.full((1, 25, 8), 7.0), torch.zeros(1, 25, dtype=torch.bool)
    at = torch.arange(20) + 3
    batch[0, at], mask[0, at] = row, True
    told = predictor(batch, mask)[0]
    torch.testing.assert_close(told[at], predictor(row[None])[0], equal_nan=True)
    assert told[~mask[0]].isnan().all()
    assert predictor(row[None, :4]).isnan().all()


def samples():
    generator = torch.Generator().manual_seed(2)
    return [Sample([256, *row[:2]], row[2:]) for row in torch.randint(0, 250, (12, 14), generator=generator).tolist()]


def test_the_term_is_the_predictors_of_the_steered_trajectory(predictor):
    model, iv = toys.shared("llama"), blank(layer=0)
    iv.adapter.vector.data.copy_(toys.vector(2))
    inner = CrossEntropy(samples(), kl_weight=0.0, l2_weight=0.0)
    objective = TopologyPenalty(inner, predictor, target_nats=0.5, weight=2.0)
    assert objective.weights["topology"] == 2.0
    part = objective.parts(model, [iv], FitConfig(batch_size=4)).train[0]
    total, n = objective.terms(Forwards(model, [iv], FitConfig()).steered(part))["topology"]
    rows = [[*samples()[i].prompt, *samples()[i].target] for i in part.batch.rows.tolist()]
    acts = ms.capture(model, tokenize(model, rows), [ms.Site(0)], progress=False)[ms.Site(0)].values.clone()
    acts[:, 2:] += toys.vector(2)  # generated, and the last prompt token
    expected = (predictor(acts)[:, W - 1 :] - 0.5).square()
    assert n == expected.numel()
    assert total.item() == pytest.approx(expected.sum().item(), rel=1e-4)
    assert torch.autograd.grad(total, iv.adapter.vector)[0].abs().max() > 0


def test_training_moves_the_entropy_towards_the_target(predictor):
    inner = CrossEntropy(samples(), dev=samples(), kl_weight=0.0, l2_weight=0.0)
    objective = TopologyPenalty(inner, predictor, target_nats=0.0, weight=100.0)
    result = fit(toys.shared("llama"), blank(layer=0), objective, FitConfig(lr=0.5, epochs=8), progress=False)
    found = [epoch.dev["topology"] for epoch in result.history]
    assert found[result.best_epoch] < 0.9 * found[0]
    assert result.objective["target_nats"] == 0.0


def test_what_cannot_be_penalised_is_refused(predictor):
    inner = CrossEntropy(samples())
    for iv in (blank(point="mlp_out"), [blank(0), blank(1)]):
        with pytest.raises(ConfigError, match="is not one trajectory"):
            fit(toys.shared("llama"), iv, TopologyPenalty(inner, predictor, target_nats=1.0), progress=False)
    with pytest.raises(ConfigError, match="weight is -1"):
        TopologyPenalty(inner, predictor, target_nats=1.0, weight=-1)
    with pytest.raises(ConfigError, match="target_nats is nan"):
        TopologyPenalty(inner, predictor, target_nats=math.nan)
    with pytest.raises(ConfigError, match="window is 3"):
        TopologyPredictor(3)
    with pytest.raises(DataError, match="0 windows of 32 tokens to learn topology from"):
        pretrain_topology(walks())
