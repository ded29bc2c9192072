"""Losses of the baselines and their trainer: defined as they are said to be, and what is trained goes the right way."""

from __future__ import annotations

import math

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer import baselines
from mechsteer.baselines import BiPO, NextToken, Steered
from mechsteer.baselines.trainer import MethodForwards, train_method
from mechsteer.errors import ConfigError, DataError, MechsteerWarning, NonFiniteError
from mechsteer.models import model_fingerprint, tokenize
from mechsteer.training import FitConfig, Separation, fit
from mechsteer.training.parts import Forwards

PAIRS = [
    (f"I love {x}; let me tell you about {x}", f"I hate {x}; let me tell you about {x}") for x in ("rain", "old trains")
]
CONFIG = FitConfig(batch_size=4, lr=0.02, epochs=3)


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


def pushed(size=0.5, layer=0):
    return ms.Steering(ms.Intervention(ms.adapters.Static(size * toys.vector(3)), layer))


def terms_of(model, objective, steering):
    objective = objective.prepared(model, CONFIG)
    (part,) = objective.parts(model, steering.interventions, CONFIG).train
    return objective.terms(Forwards(model, steering.interventions, CONFIG).steered(part))


def log_p(model, steering, text, c):
    """Of each next token, one unpadded row."""
    (ids,) = tokenize(model, [text])
    with torch.no_grad(), ms.steer(model, steering.with_coeff(c)):
        found = model(torch.tensor([ids]))[0].log_softmax(-1)
    return found[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_next_token_loss_is_of_the_side_that_the_coefficient_stands_for(model):
    terms = terms_of(model, NextToken(PAIRS), pushed())
    for side, (name, c) in enumerate((("positive", 1.0), ("negative", -1.0))):
        expected = torch.cat([log_p(model, pushed(), pair[side], c) for pair in PAIRS])
        total, n = terms[name]
        assert n == len(expected)
        torch.testing.assert_close(total.detach() / n, -expected.mean(), rtol=0, atol=5e-5)


def test_bipo_loss_by_hand(model):
    (total, n) = terms_of(model, BiPO(PAIRS, beta=0.3), pushed())["preference"]
    losses = []
    for pair in PAIRS:
        at = {c: [float(log_p(model, pushed(), text, c).sum()) for text in pair] for c in (-1.0, 0.0, 1.0)}
        for d in (-1.0, 1.0):
            margin = d * 0.3 * ((at[d][0] - at[0.0][0]) - (at[d][1] - at[0.0][1]))
            losses.append(math.log1p(math.exp(-margin)))
    assert n == len(losses)
    torch.testing.assert_close(float(total.detach()) / n, sum(losses) / n, rtol=0, atol=5e-4)


@pytest.mark.parametrize("objective", [NextToken(()), BiPO(())])
def test_no_pairs_are_refused(model, objective):
    with pytest.raises(DataError, match="there are no pairs"):
        objective.rows(model)


def test_a_beta_that_is_not_above_zero_is_refused():
    with pytest.raises(ConfigError, match="beta is 0"):
        BiPO(PAIRS, beta=0.0)


def test_the_trainer_ends_where_fit_does(model):
    """The same vector on the same objective: once by hooks and from kept residuals, once as a method that runs."""
    begin = pushed(0.1)
    expected = fit(model, begin, Separation(PAIRS), CONFIG, progress=False).steering.parameters()[0]
    method = Steered("vector", model, begin)
    losses = train_method(method, begin.parameters(), model, Separation(PAIRS), CONFIG)
    (found,) = begin.parameters()
    assert (found - 0.1 * toys.vector(3)).abs().max() > 1e-2
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=0, atol=1e-4)
    assert len(losses) == CONFIG.epochs
    assert not found.requires_grad


def test_a_loss_that_is_no_number_names_the_method(model):
    begin = pushed()
    with torch.no_grad():
        begin.parameters()[0].fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="the loss of broken became nan"):
        train_method(Steered("broken", model, begin), begin.parameters(), model, NextToken(PAIRS), CONFIG)
    assert not begin.parameters()[0].requires_grad


@pytest.mark.parametrize("name", ["full", "lora", "road", "oft", "singular"])
def test_separation_grows_on_the_positive_and_falls_on_the_negative_side(name):
    if name in ("lora", "road", "oft"):
        pytest.importorskip("peft")
    model = toys.shared("llama")
    lr = 1e-3 if name == "full" else 0.01
    config = FitConfig(batch_size=4, lr=lr, epochs=4)
    (method,) = baselines.train(model, PAIRS, [name], layers=[0], rank=4, config=config, progress=False)
    objective = Separation(PAIRS).prepared(model, config)
    (part,) = objective.parts(model, (), config).train
    forwards = MethodForwards(method, model, config)
    with torch.no_grad():
        minus, base, plus = (float(objective._seps(forwards.steered(part, c))) for c in (-1.0, 0.0, 1.0))
    assert minus < base - 1e-3
    assert plus > base + 1e-3


@pytest.mark.parametrize("name", ["full", "singular", "bipo"])
def test_next_token_training_makes_each_side_likelier(name):
    model = toys.shared("llama")
    config = FitConfig(batch_size=4, lr=1e-3 if name == "full" else 0.02, epochs=4)
    (method,) = baselines.train(
        model, PAIRS, [name], loss="next_token", layers=[0], rank=4, config=config, progress=False
    )
    assert method.name == {"full": "full fine-tuning (next token)", "singular": "singular (next token)"}.get(name, name)
    objective = NextToken(PAIRS)
    (part,) = objective.parts(model, (), config).train
    forwards = MethodForwards(method, model, config)
    after = objective.terms(forwards.steered(part))
    base = objective.terms(MethodForwards(Steered("base", model, ms.Steering([])), model, config).steered(part))
    difference = {side: float((after[side][0] - base[side][0]).detach()) for side in after}
    if name == "bipo":  # which has a loss of its own: it is the gap that grows
        return
    assert max(difference.values()) < 0


def test_full_fine_tuning_leaves_the_base_as_it_was():
    model, tokens = toys.load("llama"), torch.arange(3, 15)[None]
    fingerprint = model_fingerprint(model)
    (method,) = baselines.train(model, PAIRS, ["full"], config=CONFIG, progress=False)
    assert model_fingerprint(model) == fingerprint
    seen = []
    for c in (0.0, 1.0, -1.0):
        with torch.no_grad(), method.at(c) as running:
            seen.append(running(tokens))
    assert torch.equal(seen[0], model(tokens))
    assert min((a - b).abs().max() for a, b in ((seen[0], seen[1]), (seen[0], seen[2]), (seen[1], seen[2]))) > 1e-2
    assert method.n_parameters == 2 * sum(p.numel() for p in toys.hf_model("llama").parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["lorra"]}, "there is no method 'lorra'(.|\n)*'lora'"),
        ({"methods": []}, "methods are"),
        ({"methods": "lora"}, "methods are 'lora'"),
        ({"loss": "both"}, "loss is 'both'"),
        ({"layers": [2]}, "the loss is measured at layer 1"),
        ({"layers": []}, "layers are"),
        ({"rank": 0}, "rank is 0"),
    ],
)
def test_settings_are_refused_before_anything_is_trained(model, changes, message):
    with pytest.raises(ConfigError, match=message):
        baselines.train(model, **{"pairs": PAIRS, "methods": ["random"], "progress": False, **changes})


def test_training_without_pairs_is_refused(model):
    with pytest.raises(DataError, match="there are no pairs"):
        baselines.train(model, [], ["random"], progress=False)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_what_needs_a_hugging_face_model_is_refused_of_another_before_anything_is_trained(name):
    if name == "lora":
        pytest.importorskip("peft")
    hooked = toys.shared("llama", "hooked")
    with pytest.raises(ConfigError, match=r"a hooked model has no plain copy(.|\n)*load it as a raw bridge"):
        baselines.train(hooked, PAIRS, ["random", name], progress=False)


def test_a_method_that_fails_is_left_out_and_said(model):
    one = PAIRS[:1]
    with pytest.warns(MechsteerWarning, match="repeng is left out: 1 pairs have no principal axis"):
        found = baselines.train(model, one, ["random", "repeng", "prompting"], progress=False)
    assert [method.name for method in found] == ["random", "prompting"]
    with (
        pytest.warns(MechsteerWarning, match="repeng is left out"),
        pytest.raises(ConfigError, match="no method could be trained; repeng: 1 pairs"),
    ):
        baselines.train(model, one, ["repeng"], progress=False)


def test_the_same_seed_is_the_same_method(model):
    tokens = torch.arange(3, 15)[None]
    found = []
    for seed in (0, 0, 1):
        (method,) = baselines.train(model, PAIRS, ["random"], seed=seed, progress=False)
        with torch.no_grad(), method.at(1.0) as running:
            found.append(running(tokens))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
