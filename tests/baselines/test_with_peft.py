"""PEFT's methods: at c = 1 PEFT's own forward, at other coefficients what theirs is, at 0 the base model."""

from __future__ import annotations

import functools
import sys

import pytest
import torch
import toys

from mechsteer import baselines
from mechsteer.baselines import PerSign, Scaled
from mechsteer.baselines.with_peft.coefficients import added
from mechsteer.baselines.with_peft.wrapped import Target
from mechsteer.errors import ConfigError, MechsteerWarning
from mechsteer.models import model_fingerprint
from mechsteer.models.bridge import clean_name
from mechsteer.training import FitConfig

peft = pytest.importorskip("peft")
pytestmark = [  # what PEFT says, told in mechsteer/baselines/with_peft/wrapped.py
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension"),
    pytest.mark.filterwarnings("ignore:Setting boft_n_butterfly_factor to 1"),
]

PAIRS = [
    (f"I love {x}; let me tell you about {x}", f"I hate {x}; let me tell you about {x}") for x in ("rain", "old trains")
]
ADDED, SIGNED = ("lora", "dora", "pissa", "delora", "ia3"), ("vera", "oft", "boft")
KINDS = (*ADDED, "road", *SIGNED)
TOKENS = torch.arange(3, 15)[None]
CONFIG = FitConfig(lr=0.03, epochs=3, batch_size=4)
CLOSE = {"rtol": 0, "atol": 5e-5}


@functools.cache
def base():
    model = toys.load("llama")
    with torch.no_grad():
        return model, model(TOKENS), model_fingerprint(model)


@functools.cache
def trained(name, maps=("q", "v", "up"), layers=(0,)):
    (method,) = baselines.train(
        base()[0], PAIRS, [name], maps=maps, layers=layers, rank=3, config=CONFIG, progress=False
    )
    return method


@torch.no_grad()
def logits(method, c):
    with method.at(c) as model:
        return model(TOKENS)


def own(method, sign=1, change=lambda name, p: p):
    """The logits of PEFT's own model, made anew and given the trained parameters, each changed first."""
    source = method.source if isinstance(method, Scaled) else method.sources[0 if sign > 0 else 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        theirs = peft.get_peft_model(toys.hf_model("llama"), source.peft_config["default"])
    given = {clean_name(name): p for name, p in source.named_parameters()}
    buffers = {clean_name(name): b for name, b in source.named_buffers()}
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if p.requires_grad:
                p.copy_(change(name, given[name]))
        for name, buffer in theirs.named_buffers():
            if "vera" in name:
                buffer.copy_(buffers[name])
        return theirs(TOKENS).logits


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_attached_at_zero_and_the_base_stays_as_it_was(name):
    model, before, fingerprint = base()
    method = trained(name)
    assert torch.equal(logits(method, 0.0), before)
    assert torch.equal(model(TOKENS), before)
    assert model_fingerprint(model) == fingerprint
    with method.at(0) as running:
        assert running is model


@pytest.mark.parametrize("name", KINDS)
def test_at_one_it_is_the_forward_of_peft(name):
    found = logits(trained(name), 1.0)
    assert (found - base()[1]).abs().max() > 1e-2
    torch.testing.assert_close(found, own(trained(name)), **CLOSE)


@pytest.mark.parametrize("name", KINDS)
def test_minus_one_is_the_other_way(name):
    plus, minus = (logits(trained(name), c) - base()[1] for c in (1.0, -1.0))
    assert minus.abs().max() > 1e-2
    if name in SIGNED:  # a model of its own
        torch.testing.assert_close(logits(trained(name), -1.0), own(trained(name), -1), **CLOSE)
    else:
        assert torch.cosine_similarity(plus.flatten(), minus.flatten(), 0) < -0.5


@pytest.mark.parametrize("c", [-1.0, 2.5])
@pytest.mark.parametrize("name", ADDED)
def test_what_is_added_is_times_c(name, c):
    """W + c (W' − W) in a model of its own, W' read off each map of the trained one by its answers to unit vectors."""
    hf, source = toys.hf_model("llama"), trained(name).source
    layers = {clean_name(path): module for path, module in source.base_model.model.named_modules()}
    with torch.no_grad():
        for path, module in hf.named_modules():
            layer = layers.get(path)
            if isinstance(module, torch.nn.Linear) and hasattr(layer, "base_layer"):
                after = layer(torch.eye(module.in_features)).T
                module.weight += c * (after - module.weight)
        expected = hf(TOKENS).logits
    torch.testing.assert_close(logits(trained(name), c), expected, **CLOSE)


@pytest.mark.parametrize("c", [-1.0, 0.5, 2.0])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("lora", lambda name, p, c: c * p if "lora_B" in name else p),
        ("delora", lambda name, p, c: c * p if "lambda" in name else p),
        ("ia3", lambda name, p, c: (p - 1) * c + 1),
        ("road", lambda name, p, c: c * p if "theta" in name else (p - 1) * c + 1),
    ],
)
def test_the_coefficient_in_the_parameters_of_peft(name, change, c):
    expected = own(trained(name), change=lambda parameter, p: change(parameter, p, c))
    torch.testing.assert_close(logits(trained(name), c), expected, **CLOSE)


@pytest.mark.parametrize("name", SIGNED)
def test_only_the_sign_counts_for_those_trained_once_per_sign(name):
    method = trained(name)
    assert isinstance(method, PerSign)
    assert torch.equal(logits(method, 0.1), logits(method, 5.0))
    assert torch.equal(logits(method, -0.1), logits(method, -5.0))


@pytest.mark.parametrize("name", KINDS)
def test_a_method_is_off_after_an_error_inside(name):
    before = logits(trained(name), 1.0)
    with pytest.raises(KeyError), trained(name).at(-2.0):
        raise KeyError
    assert torch.equal(logits(trained(name), 1.0), before)


def test_trained_numbers_are_counted():
    assert trained("lora").n_parameters == 3 * (32 + 32 + 32 + 16 + 32 + 48)
    assert trained("ia3").n_parameters == 32 + 16 + 48
    assert trained("road").n_parameters == 2 * (32 + 16 + 48) / 2
    assert trained("vera").n_parameters == 2 * (3 * 256 + 32 + 16 + 48)  # of both signs


def test_nothing_but_the_adapter_is_trained():
    """Booting a bridge adds a bias that could be trained."""
    method = trained("lora")
    assert not any(p.requires_grad for p in method.model.parameters())
    assert [n for n, p in method.model.named_parameters() if "unembed" in n and "bias" in n and bool(p.any())] == []


@pytest.mark.parametrize("name", ["ether", "svft", "ssvd"])
def test_what_peft_has_not_is_refused_by_name_before_anything_is_trained(name):
    with pytest.raises(ConfigError, match=f"PEFT {peft.__version__} has no {name.upper()}"):
        baselines.train(base()[0], PAIRS, ["random", name], progress=False)


def test_a_newcomer_of_peft_is_trained_once_per_sign(monkeypatch):
    monkeypatch.setattr(peft, "SvftConfig", peft.LoraConfig, raising=False)
    (method,) = baselines.train(base()[0], PAIRS, ["svft"], maps=["q"], layers=[0], config=CONFIG, progress=False)
    assert isinstance(method, PerSign)
    assert (logits(method, 1.0) - logits(method, -1.0)).abs().max() > 1e-2


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"PEFT is not installed(.|\n)*mechsteer\[peft\]"):
        baselines.train(base()[0], PAIRS, ["lora"], progress=False)


def test_joined_maps_are_refused_and_the_default_leaves_them_out():
    gpt2 = toys.load("gpt2")
    with pytest.warns(MechsteerWarning, match=r"lora is left out: GPT2LMHeadModel holds the map 'q' joined"):
        (one,) = baselines.train(gpt2, PAIRS, ["lora", "random"], maps=["q"], layers=[0], progress=False)
    assert one.name == "random"
    with pytest.warns(MechsteerWarning, match="oft is left out: PEFT refuses these maps"):  # a Conv1D
        found = baselines.train(gpt2, PAIRS, ["oft", "ia3"], layers=[0], config=CONFIG, progress=False)
    assert [method.name for method in found] == ["ia3"]
    assert list(found[0].source.peft_config["default"].target_modules) == ["transformer.h.0.mlp.c_fc"]


def test_added_scales_one_map():
    linear, other = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    with added([Target(layer=other, was=linear)], -3.0):
        torch.testing.assert_close(
            other(x), linear(x) - 3 * (x @ (other.weight - linear.weight).T + other.bias - linear.bias)
        )
    torch.testing.assert_close(other(x), x @ other.weight.T + other.bias)
