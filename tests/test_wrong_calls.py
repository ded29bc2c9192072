"""Wrong calls are refused by one message with a hint, not from deep inside."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer import bases, directions, features, topology, training
from mechsteer.attribution import metrics
from mechsteer.errors import MechsteerError

PROMPTS = toys.prompts(5, 8)
NO_TOKENIZER = SimpleNamespace(tokenizer=None)
ODDS = metrics.log_odds(1, 2)
FEW = {"max_new_tokens": 2}


class Here:
    """What the calls are made with, made once."""

    def __init__(self, folder):
        self.folder = folder
        self.model = toys.shared("llama")
        self.v = toys.vector(1)
        self.static = ms.adapters.Static(self.v)
        self.iv = ms.Intervention(self.static, 1)
        self.acts = ms.capture(self.model, PROMPTS, [0, 1], progress=False)
        self.store = ms.capture(self.model, PROMPTS, 1, path=folder / "store", progress=False)
        self.eye = bases.from_directions(torch.eye(toys.D_MODEL))
        self.deltas = ms.deltas(self.model, self.iv, PROMPTS)

    def generate(self, prompts=PROMPTS, interventions=(), **options):
        return ms.generate(self.model, prompts, interventions, **FEW | options)

    def fit(self, objective, iv=None, *config):
        return training.fit(self.model, self.iv if iv is None else iv, objective, *config, progress=False)

    def effect(self, basis, metric=ODDS, **options):
        return ms.attribute_effect(self.model, self.iv, PROMPTS, basis, metric, **options)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return Here(tmp_path_factory.mktemp("here"))


CALLS = {
    # vectors and autoencoders
    "static: a text": (lambda h: ms.adapters.Static("x"), "needs a float vector .* got str"),
    "static: nothing": (lambda h: ms.adapters.Static(None), "got NoneType"),
    "static: a number": (lambda h: ms.adapters.Static(3.0), "got float"),
    "static: whole numbers": (lambda h: ms.adapters.Static(np.arange(4)), r"got shape \(4,\), torch.int64"),
    "static: three axes": (lambda h: ms.adapters.Static(np.zeros((2, 2, 2))), r"got shape \(2, 2, 2\)"),
    "static: ragged": (lambda h: ms.adapters.Static([[1.0], [1.0, 2.0]]), "got list"),
    "static: objects": (lambda h: ms.adapters.Static(np.array([None, 1.0])), "got ndarray"),
    "static: empty": (lambda h: ms.adapters.Static([]), r"got shape \(0,\)"),
    "static: nan": (lambda h: ms.adapters.Static([float("nan")]), "NaN or infinity"),
    "static: another width": (
        lambda h: h.generate(interventions=ms.Intervention(ms.adapters.Static(np.ones(3)), 1)),
        r"the vector has shape \(3,\), the activation at the site \(32,\)",
    ),
    "decoder row: a path": (lambda h: directions.from_sae("saes/a", 0), "is a path, not an SAE.*load_sae"),
    "decoder row: nothing": (lambda h: directions.from_sae(None, 0), "NoneType is not an SAE"),
    "decoder row: not there": (lambda h: directions.from_sae(torch.zeros(3, 4), 9), "no row 9"),
    "decoder row: a name": (lambda h: directions.from_sae(torch.zeros(3, 4), "f3"), "no row f3"),
    "basis of an array": (lambda h: bases.from_sae(np.zeros((3, 4))), "ndarray is not an SAE"),
    "basis of no SAE": (lambda h: bases.from_sae(h.eye), "no autoencoder behind it"),
    "encode by a model": (lambda h: features.sae.encode(h.model, h.v), "is not an SAE"),
    "random like a text": (lambda h: directions.random_direction("x"), "a random direction needs"),
    "mean of arrays": (lambda h: directions.mean_difference(np.zeros((2, 3)), np.ones((2, 3))), "pos is a ndarray"),
    # training an SAE
    "sae: several sites": (lambda h: features.sae.train_sae(h.acts), "several sites.*choose one"),
    "sae: a whole store": (lambda h: features.sae.train_sae(h.store), "by site.*choose one"),
    "sae: a path": (lambda h: features.sae.train_sae("store"), "str is no stream of activations"),
    "sae: nothing": (lambda h: features.sae.train_sae(None), "NoneType is no stream"),
    "sae: three axes": (
        lambda h: features.sae.train_sae(torch.zeros(2, 3, 4)),
        r"a batch of activations is \(2, 3, 4\)",
    ),
    "sae: arrays": (lambda h: features.sae.train_sae([np.zeros((3, 4))]), "a batch of activations is a ndarray"),
    "sae: empty": (lambda h: features.sae.train_sae([]), "the stream of activations is empty"),
    "sae: read once": (lambda h: features.sae.train_sae(iter([torch.zeros(3, 4)])), "pass d_in="),
    # metrics, trajectories
    "log-odds: no model": (lambda h: metrics.log_odds(" happy", " sad"), "no model came with it.*model"),
    "log-odds: no tokenizer": (lambda h: metrics.log_odds(" a", " b", NO_TOKENIZER), "the model has no tokenizer"),
    "log-odds: two tokens": (lambda h: metrics.log_odds("ab", "c", h.model), r"'ab' has 2 tokens: \['a', 'b'\]"),
    "log-odds: a fraction": (lambda h: metrics.log_odds(1.5, 2), "1.5 is no token"),
    "log-odds: nothing": (lambda h: metrics.log_odds(None, 1), "None is no token"),
    "log-odds: the same": (lambda h: metrics.log_odds(1, [1, 2]), "give tokens on both sides, none on both"),
    "traces: several sites": (lambda h: topology.trace_frame(h.acts), "several sites.*choose one"),
    "traces: a text": (lambda h: topology.trace_frame("abc"), "str holds no trajectories"),
    "traces: one axis": (lambda h: topology.trace_frame(torch.zeros(4)), r"the trajectory is \[4\]"),
    "traces: lists": (lambda h: topology.trace_frame([[1.0, 2.0]]), "the trajectory 0 is list"),
    "summarize several": (lambda h: topology.summarize(h.acts[1]), "trajectories of several prompts.*row.0."),
    # interventions
    "calibrate: nothing": (lambda h: ms.calibrate(h.model, None, PROMPTS), "NoneType is no intervention"),
    "calibrate: none": (lambda h: ms.calibrate(h.model, [], PROMPTS), "there is no intervention to scale"),
    "calibrate: an adapter": (lambda h: ms.calibrate(h.model, h.static, PROMPTS), "Static is no intervention"),
    "steering: a number": (lambda h: ms.Steering(5), "not of int"),
    "steering: an adapter": (lambda h: ms.Steering(h.static), "not of Static"),
    "steering: a strength in words": (lambda h: ms.Steering(h.iv, "big"), "coeff is 'big'"),
    "steer: nothing": (lambda h: ms.steer(h.model, None).__enter__(), "NoneType is no intervention"),
    "steer: a direction": (
        lambda h: ms.steer(h.model, directions.Direction(h.v)).__enter__(),
        "Direction is no intervention.*Static",
    ),
    "steer: no model": (lambda h: ms.steer(torch.nn.Linear(1, 1), h.iv).__enter__(), "neither a TransformerBridge"),
    "intervention: a vector": (lambda h: ms.Intervention(h.v, 1), "is not an adapter.*Static"),
    "intervention: no site": (lambda h: ms.Intervention(h.static, None), "None is no site"),
    "intervention: two sites": (lambda h: ms.Intervention(h.static, [1, 2]), "is not one site"),
    "intervention: scope": (lambda h: ms.Intervention(h.static, 1, scope="genrated"), "did you mean 'generated'"),
    "intervention: scope 3": (lambda h: ms.Intervention(h.static, 1, scope=3), "scope is 3"),
    "intervention: coeff": (lambda h: ms.Intervention(h.static, 1, coeff="big"), "coeff is 'big'"),
    "observation: an adapter": (lambda h: ms.Observation(h.static, 1), "Static is not an observer"),
    "fold a text": (lambda h: ms.fold(h.model, "x"), "str is no intervention"),
    "save an adapter": (lambda h: ms.save_steering(h.static, h.folder / "s", h.model), "Static is no intervention"),
    # generation
    "generate: one text": (lambda h: h.generate("abc"), "prompts is one string"),
    "generate: nothing": (lambda h: h.generate(None), "prompts is None"),
    "generate: a number": (lambda h: h.generate([5]), "prompt 0 is 5"),
    "generate: no text": (lambda h: h.generate([None]), "prompt 0 is None"),
    "generate: words for ids": (lambda h: h.generate([["a"]]), r"prompt 0 is \['a'\]"),
    "generate: fractions": (lambda h: h.generate(torch.zeros(2, 3)), "prompt 0 is tensor"),
    "generate: a Hugging Face model": (lambda h: ms.generate(h.model.original_model, PROMPTS), "wrap it"),
    "generate: an adapter": (lambda h: h.generate(interventions=[h.static]), "Static is no intervention"),
    "generate: a name": (lambda h: h.generate(interventions="happy"), "str is no intervention"),
    "generate: both": (lambda h: h.generate(seed=1, generator=torch.Generator()), "both generator and seed=1"),
    "generate: number for generator": (lambda h: h.generate(generator=1), "generator is 1.*seed=0"),
    "generate: seed": (lambda h: h.generate(seed=1.5), "seed is 1.5"),
    "generate: how many": (lambda h: h.generate(max_new_tokens="a"), "max_new_tokens='a'"),
    "generate: temperature": (lambda h: h.generate(temperature="hot"), "temperature='hot'"),
    "generate: batch": (lambda h: h.generate(batch_size=0), "batch_size=0"),
    "generate: truncate": (lambda h: h.generate(truncate="middle"), "truncate is 'middle'"),
    "generate: truncate 0": (lambda h: h.generate(truncate=0), "truncate is 0"),
    "generate: too many": (
        lambda h: h.generate(max_new_tokens=toys.N_CTX + 1, truncate="left"),
        "ask for fewer new tokens",
    ),
    # capture
    "capture: a typo": (lambda h: ms.capture(h.model, PROMPTS, "blocks.1.hook_resid_pots"), "closest are .*resid_post"),
    "capture: no point": (lambda h: ms.capture(h.model, PROMPTS, "blocks.1.zzz"), "is no point of a Site.*resid_pre"),
    "capture: no layer": (lambda h: ms.capture(h.model, PROMPTS, "mlp_out"), r"needs its layer: Site\(3, 'mlp_out'\)"),
    "capture: layer 99": (lambda h: ms.capture(h.model, PROMPTS, 99), "no layer 99"),
    "capture: nothing": (lambda h: ms.capture(h.model, PROMPTS, None), "None is no site"),
    "capture: none": (lambda h: ms.capture(h.model, PROMPTS, []), "no sites to capture"),
    "capture: True": (lambda h: ms.capture(h.model, PROMPTS, True), "True is no site"),
    "capture: dtype": (lambda h: ms.capture(h.model, PROMPTS, 1, dtype="int8"), "not kept as 'int8'"),
    "capture: an adapter": (lambda h: ms.capture(h.model, PROMPTS, 1, interventions=h.static), "is no intervention"),
    "activations: not there": (lambda h: h.acts[2], "resid_post@2 was not captured.*captured are"),
    "activations: a word": (lambda h: h.acts["a"], "'a' is no hook of a block"),
    "store: not there": (lambda h: h.store["mlp_out@1"], "mlp_out@1 was not captured"),
    # learning
    "vocabulary: nothing": (lambda h: features.groups_for(None), "NoneType has no tokenizer"),
    "vocabulary: no tokenizer": (lambda h: features.groups_for(NO_TOKENIZER), "has no tokenizer"),
    "vocabulary: a number": (lambda h: features.groups_for(h.model, 5), "a vocabulary is 5"),
    "fit: texts": (lambda h: h.fit(["abc"]), "item 0 is no sample"),
    "fit: one text": (lambda h: h.fit("abc"), "samples are 'abc'"),
    "fit: nothing": (lambda h: h.fit(None), "samples are None"),
    "fit: triples": (lambda h: h.fit([("a", "b", "c")]), "item 0 is no sample"),
    "fit: numbers": (lambda h: h.fit([(1, 2)]), "prompt 0 is 1"),
    "fit: settings": (lambda h: h.fit([("a", "b")], None, {"epochs": 1}), "config is .*FitConfig"),
    "fit: an adapter": (lambda h: h.fit([("a", "b")], h.static), "Static is no intervention"),
    "extract: texts": (lambda h: directions.extract(h.model, ["a", "b"], 1), r"pairs are \['a', 'b'\]"),
    "extract: none": (lambda h: directions.extract(h.model, [], 1), r"pairs are \[\]"),
    "extract: position": (
        lambda h: directions.extract(h.model, [("a", "b")], 1, position="first"),
        "position is 'first'",
    ),
    # attribution
    "effect: a matrix": (lambda h: h.effect(torch.eye(toys.D_MODEL)), "Tensor is no basis.*from_directions"),
    "effect: another width": (lambda h: h.effect(bases.from_directions(torch.eye(3))), "the directions 3"),
    "effect: metric": (lambda h: h.effect(h.eye, "logits"), "the metric is a str"),
    "effect: site": (lambda h: h.effect(h.eye, site="blocks.0.hook_resid_post"), "the basis is for resid_post@0"),
    "attribute: no deltas": (lambda h: ms.attribute(h.iv, h.eye), "Intervention is no Deltas.*mechsteer.deltas"),
    "attribute: a matrix": (lambda h: ms.attribute(h.deltas, torch.eye(toys.D_MODEL)), "Tensor is no basis"),
    "deltas elsewhere": (lambda h: h.deltas.at("mlp_out@1"), "asked for mlp_out@1"),
    "singular: a hook": (lambda h: bases.singular(h.model, site="blocks.1.zzz"), "is no point of a Site"),
    "bias only: a word": (lambda h: ms.steering.bias_only(h.model, ["a"]), "'a' is no hook of a block"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_has_one_message_and_a_hint(name, here):
    call, why = CALLS[name]
    with pytest.raises(MechsteerError, match=f"(?s){why}") as caught:
        call(here)
    error = caught.value
    assert error.hint
    assert len(error.message) < 300
    assert "hint:" not in error.message + error.hint  # one message, not one inside another
    assert "tensor([[" not in str(error)


def test_nothing_stays_behind(here):
    """After all these calls the model is what it was."""
    tokens = torch.tensor(toys.prompts(6))
    assert torch.equal(here.model(tokens), toys.load("llama")(tokens))
    assert ms.runtime.session.open_sessions(here.model) == []
