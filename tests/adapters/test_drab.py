"""DRAB: its three forms written out, and how often its network runs."""

import pytest
import torch
import toys
from booster_toys import ATOL, COEFF, D, by_token, given, perturbed, written_out

import mechsteer as ms
from mechsteer.adapters import Drab
from mechsteer.errors import ConfigError, ShapeError

GENERATED = ms.TokenScope.generated(include_last_prompt=True)
FORMS = ("add", "hybrid", "scaled_add")


def formula(form, out, h, s_max):
    """The delta of one token from what the network says."""
    if form == "add":
        return COEFF * out
    gate, added = out[:D], out[D:]
    return COEFF * (h * s_max * gate.tanh() + added if form == "hybrid" else added / (1 + (-gate).exp()))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("look_back", [False, True])
@pytest.mark.parametrize("rank", [None, 2])
def test_as_written(form, look_back, rank):
    adapter = perturbed(Drab(D, D, d_hidden=4, form=form, s_max=0.5, rank=rank, look_back=look_back).double())
    acts, p, ctx = given()

    def expected(h, prompt):
        out = written_out(adapter.network, torch.cat([h, prompt]) if look_back else prompt)
        return formula(form, out, h, 0.5)

    delta, state = adapter.delta(acts, None, COEFF, ctx)
    torch.testing.assert_close(delta, by_token(expected, acts, p), **ATOL)
    assert (state is None) == look_back == (not adapter.per_prompt)


def test_a_hybrid_scales_within_its_bounds():
    adapter = perturbed(Drab(D, D, d_hidden=4, form="hybrid", s_max=0.25).double(), size=50.0)
    acts, _, ctx = given()
    _, state = adapter.delta(acts, None, 1.0, ctx)
    scales = state[1]
    assert 0.2 < float(scales.detach().abs().max()) <= 0.25


@pytest.mark.parametrize("kind", ["bridge-llama", "compat-llama", "hooked-gpt2"])
@pytest.mark.parametrize("form", FORMS)
def test_the_network_runs_once_per_row(model_of, kind, form):
    """At the prefill, and not for any of the tokens after it."""
    model, calls = model_of(kind), []
    adapter = perturbed(Drab(32, 32, d_hidden=4, form=form), size=0.05)
    adapter.network.register_forward_hook(lambda module, args, out: calls.append(len(out)))
    iv = ms.Intervention(adapter, 1, scope=GENERATED)
    out = ms.generate(model, toys.prompts(3, 7, 5), iv, max_new_tokens=30, stop_tokens=())
    assert [len(row) for row in out.tokens] == [30] * 3
    assert calls == [3]


def test_and_once_per_row_in_every_step_of_a_training(model_of):
    """Also where the prompt is a kept prefix that the adapter never sees again."""
    model, calls = model_of("bridge-llama"), []
    samples = [ms.runtime.batches.Sample([256, *p], t) for p, t in zip(PROMPTS, TARGETS, strict=True)]
    config = ms.training.FitConfig(epochs=3, batch_size=2)
    iv = ms.Intervention(Drab(32, 32, d_hidden=4), 1, scope=GENERATED)

    class Counting(type(iv.adapter.network)):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    iv.adapter.network.__class__ = Counting
    ms.training.fit(model, iv, samples, config, progress=False)
    assert calls == [2, 2] * 3


PROMPTS, TARGETS = toys.prompts(4, 6, 5, 3), toys.prompts(3, 2, 5, 4, seed=2)


def test_errors():
    with pytest.raises(ConfigError, match=r"(?s)no form 'mul' of drab.*hybrid"):
        Drab(4, 4, form="mul")
    for wrong in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"(?s)s_max is .*positive"):
            Drab(4, 4, s_max=wrong)
    with pytest.raises(ShapeError, match=r"(?s)reads \(4 numbers\) and writes 6.*form=\"add\""):
        Drab(4, 6, form="hybrid")


def test_embeddings_have_to_be_as_wide_as_what_is_read(model_of):
    model = model_of("bridge-llama")
    iv = ms.Intervention(Drab(48, 32, pooling="embedding"), ms.Site(1, "mlp_out"), read=ms.Site(1, "mlp_post"))
    with (
        torch.no_grad(),
        ms.steer(model, iv),
        pytest.raises(ShapeError, match=r"embeddings are 32 wide, Drab reads 48"),
    ):
        model(torch.tensor(toys.prompts(5)))
