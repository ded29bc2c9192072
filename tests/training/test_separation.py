"""The contrastive objective: its terms are what they are defined to be, and training moves what it is to move."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.directions import Separating
from mechsteer.errors import ConfigError, DataError
from mechsteer.models import backend_of, tokenize
from mechsteer.steering import singular_steering
from mechsteer.training import (
    FitConfig,
    Separation,
    SeparationLoss,
    TrustRegion,
    correlated_layers,
    every_loss_layer,
    fit,
)
from mechsteer.training.objectives.contrast import monotone_hinge
from mechsteer.training.objectives.differences import pair_differences
from mechsteer.training.objectives.loss_layers import correlation
from mechsteer.training.objectives.pairs import scored_rows
from mechsteer.training.parts import Forwards

PAIRS = [
    (f"I {a} {x}; let me tell you about {x}", f"I {b} {x}; let me tell you about {x}")
    for x in ("cheese", "old trains", "rain", "my own dog")
    for a, b in (("love", "hate"), ("really love", "really hate"))
]
CONFIG = FitConfig(batch_size=16, lr=0.02, epochs=8)


@pytest.fixture(scope="module")
def model():
    return toys.shared("qwen3")


def trained_from(model, size=0.1, **options):
    steering = singular_steering(model, ["q", "v", "up"], [0], rank=6, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in steering.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator))
    return steering


def by_hand(model, steering, c, layer=2, n_last=6):
    """(mean of the last residuals [d], log-likelihood of each next token) per text, one unpadded row at a time."""
    backend, found = backend_of(model), []
    for text in (text for pair in PAIRS for text in pair):
        (ids,) = tokenize(model, [text])
        seen = []
        remove = backend.runner.attach(f"blocks.{layer}.hook_resid_post", lambda acts, seen=seen: seen.append(acts))
        with torch.no_grad(), ms.steer(model, steering.with_coeff(c)):
            log_p = model(torch.tensor([ids]))[0].log_softmax(-1)
        remove()
        found.append((seen[0][0, -n_last:].mean(0), log_p[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]))
    return found


def terms_of(model, objective, steering):
    objective = objective.prepared(model, CONFIG)
    parts = objective.parts(model, steering.interventions, CONFIG)
    (part,) = parts.train
    forwards = Forwards(model, steering.interventions, CONFIG)
    found = objective.terms(forwards.steered(part))
    assert set(found) <= set(objective.weights)
    return found


@pytest.mark.parametrize("kind", ["mean_difference", "own"])
def test_terms_are_those_computed_text_by_text(model, kind):
    steering = trained_from(model)
    loss, trust = SeparationLoss(beta=0.7, margin=0.2), TrustRegion(tolerance=0.01, power=2)
    objective = Separation(
        PAIRS, loss_layers=[2], loss=loss, trust=trust, direction=Separating(kind=kind), monotone_margin=0.01
    )
    terms = terms_of(model, objective, steering)
    found = {name: float(torch.as_tensor(total).detach()) / n for name, (total, n) in terms.items()}
    runs = {c: by_hand(model, steering, c) for c in (-1.0, 0.0, 1.0)}
    d = torch.stack([a[0] - b[0] for a, b in zip(runs[0.0][::2], runs[0.0][1::2], strict=True)])
    d = d if kind == "own" else d.mean(0).expand_as(d)
    d = d / d.norm(dim=1, keepdim=True)
    seps, odds = {}, {}
    for c, run in runs.items():
        diffs = torch.stack([a[0] - b[0] for a, b in zip(run[::2], run[1::2], strict=True)])
        seps[c] = (diffs * d).sum(-1).mean()
        odds[c] = torch.stack([a[1].mean() - b[1].mean() for a, b in zip(run[::2], run[1::2], strict=True)])
    expected = {}
    for c, side in ((1.0, "plus"), (-1.0, "minus")):
        expected[f"sep {side} 2"] = seps[c]
        expected[f"loss {side} 2"] = -torch.log(torch.sigmoid(0.7 * (c * (seps[c] - seps[0.0]) - 0.2)))
        ref, log_p = (torch.cat([one[1] for one in runs[k]]) for k in (0.0, c))
        expected[f"coherence {side}"] = ((ref - log_p - 0.01).clamp(min=0) ** 2).mean()
    expected["separation_loss"] = (expected["loss plus 2"] + expected["loss minus 2"]) / 2
    expected["coherence"] = (expected["coherence plus"] + expected["coherence minus"]) / 2
    steps = (0.01 - (odds[0.0] - odds[-1.0])).clamp(min=0) + (0.01 - (odds[1.0] - odds[0.0])).clamp(min=0)
    expected["monotonicity"] = steps.mean()
    assert expected["coherence"] > 1e-4
    assert expected["monotonicity"] > 1e-4
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=2e-3, abs=1e-5), name
    assert found["angle"] == max(iv.adapter.measures()["angle"] for iv in steering.interventions)


@pytest.mark.parametrize("restart", [True, False])
def test_the_gradient_is_the_same_from_what_is_kept(model, restart):
    steering = trained_from(model)
    config = FitConfig(batch_size=16, restart=restart)
    objective = Separation(PAIRS, loss_layers=[1, 2]).prepared(model, config)
    (part,) = objective.parts(model, steering.interventions, config).train
    terms = objective.terms(Forwards(model, steering.interventions, config).steered(part))
    total, n = terms["separation_loss"]
    assert n == 4
    grads = torch.autograd.grad(total, steering.parameters())
    step, values = 1e-3, []
    p, g = steering.parameters()[0], grads[0]
    way = g / g.norm()
    with torch.no_grad():
        for sign in (1, -1):
            p.add_(sign * step * way)
            values.append(
                objective.terms(Forwards(model, steering.interventions, config).steered(part))["separation_loss"][0]
            )
            p.sub_(sign * step * way)
    assert float(values[0] - values[1]) / (2 * step) == pytest.approx(float(g.norm()), rel=0.05)


def test_training_separates_both_ways_and_stays_within_the_trust_region(model):
    objective = Separation(PAIRS[:6], dev=PAIRS[6:], loss_layers=[2], loss=SeparationLoss(form="raw", bound=5.0))
    result = fit(model, trained_from(model, size=0.0), objective, CONFIG, progress=False)
    first, last = result.history[0].dev, result.history[result.best_epoch].dev
    assert first["sep plus 2"] == pytest.approx(first["sep minus 2"])
    assert last["sep plus 2"] > first["sep plus 2"] + 0.1 > last["sep minus 2"] + 0.2
    assert last["loss"] < first["loss"]
    assert last["angle"] > 0.01
    assert last["orthogonality_error"] < 1e-5
    assert result.objective["direction"]["kind"] == "mean_difference"
    assert result.objective["loss_layers"] == [2]
    assert result.learning_rates[0] == 0.02
    tight = Separation(PAIRS, loss_layers=[2], loss=objective.loss, coherence_weight=1e3)
    held = fit(model, trained_from(model, size=0.0), tight, CONFIG, progress=False).history[-1].train
    free = (
        fit(
            model,
            trained_from(model, size=0.0),
            Separation(PAIRS, loss_layers=[2], loss=objective.loss, coherence_weight=0.0),
            CONFIG,
            progress=False,
        )
        .history[-1]
        .train
    )
    assert held["coherence"] < 0.5 * free["coherence"]
    assert held["sep plus 2"] < free["sep plus 2"]


def test_losses_by_their_formulas():
    sep, ref = torch.tensor([0.4, -2.0], dtype=torch.float64), torch.tensor([0.1, 0.3], dtype=torch.float64)
    for c in (1.0, -1.0):
        raw = SeparationLoss(form="raw")(sep, ref, c)
        torch.testing.assert_close(raw, -c * sep)
        torch.testing.assert_close(SeparationLoss(form="raw", bound=0.5)(sep, ref, c), -0.5 * torch.tanh(c * sep / 0.5))
        sigmoid = [1 / (1 + math.exp(-0.1 * (c * float(a - b) - 0.5))) for a, b in zip(sep, ref, strict=True)]
        expected = torch.tensor([-math.log(x) for x in sigmoid], dtype=torch.float64)
        torch.testing.assert_close(SeparationLoss()(sep, ref, c), expected, rtol=1e-10, atol=0)
    log_p, log_ref = torch.tensor([-1.0, -1.15, -3.0]), torch.tensor([-1.5, -1.0, -1.0])
    torch.testing.assert_close(TrustRegion()(log_p, log_ref), torch.tensor([0.0, 0.0, 1.8**2]))
    torch.testing.assert_close(TrustRegion(power=4)(log_p, log_ref), torch.tensor([0.0, 0.0, 1.8**4]))
    minus, base, plus = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.5]), torch.tensor([3.0, 0.7])
    torch.testing.assert_close(monotone_hinge(minus, base, plus), torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(monotone_hinge(minus, base, plus, margin=0.4), torch.tensor([0.0, 0.9 + 0.2]))


def test_the_left_singular_basis_of_a_map_is_where_differences_are_measured(model):
    objective = Separation(PAIRS, loss_layers=[2], direction=Separating(measure="down", measure_rank=5))
    prepared = objective.prepared(model, CONFIG)
    (direction,) = prepared._directions[()]
    u = torch.linalg.svd(backend_of(model).weights.map_weight(2, "down")).U[:, :5]
    torch.testing.assert_close(u @ (u.T @ direction), direction, rtol=0, atol=1e-5)
    assert terms_of(model, objective, trained_from(model))["separation_loss"][1] == 2


def test_the_layers_that_tell_the_sides_are_found():
    """Planted: from layer 2 on an MLP writes what tells the sides apart; before, differences have every sign."""
    n, d = 40, 16
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    told = noise + 3 * torch.eye(d, dtype=torch.float64)[0]
    assert abs(correlation(noise)) < 0.5
    assert correlation(told) > 0.8
    same = told[:1].expand(n, d)
    assert correlation(same) == pytest.approx(1.0)
    assert correlation(torch.zeros(n, d)) == 0.0
    # of projections ±p/2 with their sides ±1, as defined
    halves = told[::2], told[1::2]
    p = np.concatenate([(a @ (b.mean(0) / b.mean(0).norm())).numpy() for a, b in (halves, halves[::-1])])
    by_numpy = np.corrcoef(np.concatenate([p, -p]) / 2, np.repeat([1, -1], n))[0, 1]
    assert correlation(told) == pytest.approx(by_numpy, rel=1e-10)


def test_several_loss_layers_train_below_the_first_of_them():
    model = toys.load("llama", n_layers=6, num_hidden_layers=6, intermediate_size=32)
    layers = correlated_layers(model, PAIRS, 2, first=3)
    rated = pair_differences(model, scored_rows(model, PAIRS), [ms.Site(i) for i in (3, 4, 5)], 6, 4)
    best = sorted(np.argsort([-correlation(each) for each in rated])[:2] + 3)
    assert layers == best
    assert every_loss_layer(6, 2, first=3) == [3, 5]
    steering = singular_steering(model, ["v"], rank=4, loss_layers=[3, 5], n_layers=1)
    assert [iv.site.layer for iv in steering.interventions] == [1]
    found = terms_of(model, Separation(PAIRS, loss_layers=every_loss_layer(6, 2, first=3)), steering)
    assert found["separation_loss"][1] == 4
    assert {"sep plus 3", "sep plus 5"} <= set(found)
    for make, error, message in (
        (lambda: every_loss_layer(6, 0), ConfigError, "every 0 layers"),
        (lambda: every_loss_layer(6, first=6), ConfigError, "the first loss layer is 6 of 6 layers"),
        (lambda: correlated_layers(model, PAIRS, 4), ConfigError, "4 layers of 3 from layer 3 on"),
        (lambda: correlated_layers(model, PAIRS[:3], 1), DataError, "3 pairs"),
        (lambda: singular_steering(model, layers=[1], loss_layers=[3]), ConfigError, "layers are given, and what"),
    ):
        with pytest.raises(error, match=message):
            make()


def test_what_cannot_be_trained_on_is_refused(model):
    steering = trained_from(model)
    for objective, error, message in (
        (Separation([], loss_layers=[2]), DataError, "there are no pairs"),
        (Separation(PAIRS, loss_layers=[0]), ConfigError, r"measured at layer 0, and an adapter stands at \w+_out@0"),
        (Separation(PAIRS, loss_layers=[]), ConfigError, "there is no loss layer"),
        (Separation([("same", "same")] * 4, loss_layers=[2]), DataError, "some pairs have no difference"),
        (
            Separation([*PAIRS, ("I love to say it", "I hate to say he")], loss_layers=[2]),
            DataError,
            r"(?s)pair 8 share no token at their end, and the loss looks at the last 6.*share what follows",
        ),
    ):
        with pytest.raises(error, match=message):
            fit(model, steering, objective, CONFIG, progress=False)
    for make, message in (
        (lambda: Separation(PAIRS, n_last=0), "n_last is 0"),
        (lambda: SeparationLoss(form="hinge"), "form is 'hinge'"),
        (lambda: SeparationLoss(beta=0.0), "beta is 0.0"),
        (lambda: TrustRegion(power=0), "power 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()
