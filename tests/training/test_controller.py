"""Training a controller: a gate held to a rate, a gate that learns where the teacher will be left, and both in turn."""

from __future__ import annotations

import functools

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.runtime.batches import Sample
from mechsteer.steering.interventions import writing
from mechsteer.steering.presets import untrained
from mechsteer.training import ComingDivergence, FitConfig, OpenRate, Phase, TeacherKL, fit, fit_in_phases
from mechsteer.training.objectives.coming_divergence import coming, divergences
from mechsteer.training.parts import Forwards
from tests.training.training_toys import GENERATED, blank, killed_in_step, random_samples, state

ODD = 17  # the teacher reads this token as another word


@functools.cache
def teacher():
    hf = toys.hf_model("llama")
    with torch.no_grad():
        hf.get_input_embeddings().weight[ODD] = toys.vector(5) * hf.get_input_embeddings().weight[ODD].norm() / 5
    return ms.load_model(hf, tokenizer=toys.tokenizer())


def model():
    return toys.shared("llama")


def samples(n=60, seed=4):
    """Prompts of three tokens, targets of eight, of which about one in seven is the odd one."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 250, (n, 12), generator=generator)
    ids[:, 4:][torch.rand(n, 8, generator=generator) < 0.15] = ODD
    return [Sample([256, *row[:3]], row[3:]) for row in ids.tolist()]


def controller(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"d_input": 12, "d_hidden": 12, "rank": 4, "signal_window": 6}
        return untrained(model(), "gru", ms.Site(0), scope=GENERATED, **shape | options)


def towards(**changes):
    every = samples()
    settings = {"dev": every[48:], "kl_weight": 0.0, "l2_weight": 0.0} | changes
    return TeacherKL(teacher(), every[:48], **settings)


def steered_parts(objective, iv):
    parts = objective.parts(model(), [iv], FitConfig(batch_size=8))
    forwards = Forwards(model(), [iv], FitConfig())
    return [forwards.steered(part) for part in parts.train[:2]]


# -- the open rate -------------------------------------------------------------------------------------------------


def test_the_penalty_is_the_squared_distance_of_the_batchs_mean_gate():
    objective, iv = OpenRate(towards(), rate=0.3, weight=2.0), controller()
    for steered in steered_parts(objective, iv):
        found, inner = objective.terms(steered), objective.objective.terms(steered)
        gate = steered.session.readings[0]["gate"][-1]
        touched = gate[~gate.isnan()]
        # the last prompt token and all of the target
        assert len(touched) == steered.part.batch.is_target.sum() + len(gate)
        total, n = found["open_rate"]
        assert (total / n).item() == pytest.approx((touched.mean().item() - 0.3) ** 2, rel=1e-5)
        assert found["gate"] == (pytest.approx(touched.sum().item()), len(touched))
        assert {name: value.item() for name, (value, _) in inner.items()} == pytest.approx(
            {name: found[name][0].item() for name in inner}
        )
        (grad,) = torch.autograd.grad(total / n, iv.adapter.gate.bias)
        slope = (touched * (1 - touched)).mean()
        torch.testing.assert_close(grad, (2 * (touched.mean() - 0.3) * slope)[None], rtol=1e-4, atol=1e-7)
    assert objective.weights == {"teacher_kl": 1.0, "kl": 0.0, "square_norm": 0.0, "open_rate": 2.0, "gate": 0.0}


@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_the_gate_goes_where_it_is_held(rate):
    objective = OpenRate(towards(), rate=rate, weight=100.0)
    result = fit(model(), controller(), objective, FitConfig(lr=0.02, epochs=10, batch_size=6), progress=False)
    assert result.history[-1].train["gate"] == pytest.approx(rate, abs=0.02)
    assert result.objective["rate"] == rate
    assert result.objective["objective"] == "TeacherKL"


def test_no_gate_nothing_to_hold():
    for objective in (OpenRate(towards()), ComingDivergence(towards())):
        with pytest.raises(ConfigError, match="no adapter of the steering notes a gate"):
            fit(model(), blank(), objective, FitConfig(epochs=1), progress=False)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: OpenRate(towards(), rate=0.0), "rate is 0"),
        (lambda: OpenRate(towards(), weight=-1.0), "weight is -1"),
        (lambda: ComingDivergence(towards(), rate=1.0), "rate is 1"),
        (lambda: ComingDivergence(towards(), horizon=0), "horizon is 0"),
    ],
)
def test_settings_out_of_range_are_refused(made, message):
    with pytest.raises(ConfigError, match=message):
        made()


# -- coming divergence ---------------------------------------------------------------------------------------------


def direct(sample):
    """KL(teacher || model) per target token, one plain forward each."""
    row, n = torch.tensor([[*sample.prompt, *sample.target]]), len(sample.prompt)
    log_p, log_q = (one(row)[0].log_softmax(-1) for one in (teacher(), model()))
    return torch.stack([(log_p[i].exp() * (log_p[i] - log_q[i])).sum() for i in range(n - 1, row.shape[1] - 1)])


@torch.no_grad()
def test_divergences_are_those_of_plain_forwards_row_by_row():
    objective, some = towards(), [*random_samples(7), *samples(4)]
    rows = [(list(s.prompt), list(s.target)) for s in some]
    found = divergences(model(), objective, rows, batch_size=4)
    for sample, kl in zip(some, found, strict=True):
        torch.testing.assert_close(kl, direct(sample), rtol=1e-3, atol=1e-5)


def test_what_is_coming_is_a_mean_over_what_there_is():
    kl = torch.rand(9, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([kl[i : i + 4].mean() for i in range(9)])
    torch.testing.assert_close(coming(kl, 4), expected)


@torch.no_grad()
def test_labels_are_the_tokens_with_most_divergence_ahead():
    objective = ComingDivergence(towards(), horizon=3, rate=0.2).prepared(model(), FitConfig(batch_size=8))
    train = samples()[:48]
    ahead = torch.cat([coming(direct(sample), 3) for sample in train])
    cut = ahead.sort(descending=True).values[int(0.2 * len(ahead)) + 1]
    labelled = []
    for steered in steered_parts(objective, controller()):
        batch, terms = steered.part.batch, objective.terms(steered)
        rows = [train[i] for i in batch.rows.tolist()]
        wanted = torch.cat([(coming(direct(sample), 3) > cut).float() for sample in rows])
        gate = steered.session.readings[0]["gate"][-1][batch.predicts_target]
        expected = -(wanted * gate.log() + (1 - wanted) * (1 - gate).log()).sum()
        assert terms["divergence"][0].item() == pytest.approx(expected.item(), rel=0.02)
        n_open = wanted.sum().item()
        constant = -(n_open * torch.tensor(0.2).log() + (len(wanted) - n_open) * torch.tensor(0.8).log())
        assert terms["constant"][0].item() == pytest.approx(constant.item(), rel=0.02)
        labelled.append(n_open)
    assert sum(labelled) > 5


def test_a_gate_learns_where_the_teacher_will_be_left_and_writes_nothing_yet():
    result = fit(
        model(), controller(), ComingDivergence(towards(), horizon=1), FitConfig(lr=0.02, epochs=12), progress=False
    )
    best = result.history[result.best_epoch].dev
    assert best["divergence"] < 0.6 * best["constant"]
    (iv,) = writing(result.steering)
    assert not iv.adapter.decoder.written.any()


def test_a_teacher_that_is_the_model_says_nothing():
    objective = ComingDivergence(TeacherKL(model(), samples(6)))
    with pytest.raises(DataError, match="no token of the samples diverges from the teacher by more than 0 nats"):
        fit(model(), controller(), objective, FitConfig(epochs=1), progress=False)


# -- both ----------------------------------------------------------------------------------------------------------


def phases(cache=None):
    teacher_kl = towards(cache=cache, top_k=20)
    config = FitConfig(lr=0.01, epochs=4, batch_size=8)
    return [
        Phase(objective=ComingDivergence(teacher_kl), config=config),
        Phase(objective=OpenRate(teacher_kl, weight=10.0), config=config),
    ]


def test_phases_go_on_from_each_other_and_the_teacher_is_followed(tmp_path, monkeypatch):
    first, second = fit_in_phases(model(), controller(), phases(tmp_path), progress=False)
    (learnt,), (trained,) = writing(first.steering), writing(second.steering)
    assert not learnt.adapter.decoder.written.any()
    assert trained.adapter.decoder.written.any()
    kls = [epoch.dev["teacher_kl"] for epoch in second.history]
    assert kls[second.best_epoch] < 0.97 * kls[0]
    direct = fit(model(), first.steering, phases(tmp_path)[1].objective, phases()[1].config, progress=False)
    assert all(map(torch.equal, state(direct), state(second)))
    assert len(list(tmp_path.iterdir())) == 1  # one file of predictions serves both

    checkpoint = tmp_path / "run.safetensors"
    for number in (7, 20):
        with killed_in_step(number, monkeypatch):
            fit_in_phases(model(), controller(), phases(), checkpoint=checkpoint, progress=False)
    again = fit_in_phases(model(), controller(), phases(), checkpoint=checkpoint, progress=False)
    assert all(map(torch.equal, state(again[1]), state(second)))
    assert again[0].history == first.history
    with pytest.raises(ConfigError, match="there are no phases"):
        fit_in_phases(model(), controller(), [])


@pytest.mark.parametrize("options", [{"decoder": "hyper", "d_plan": 2}, {"plan": True, "h0": True}, {"window": 4}])
def test_every_form_learns_from_a_teacher(options):
    result = fit(
        model(), controller(**options), OpenRate(towards()), FitConfig(lr=0.01, epochs=4, batch_size=8), progress=False
    )
    kls = [epoch.dev["teacher_kl"] for epoch in result.history]
    assert kls[result.best_epoch] < 0.97 * kls[0]


def test_a_bfloat16_model_trains_a_float32_controller():
    """As near the float32 run as bfloat16 is; a recomputed block changes nothing."""
    rough = toys.load("llama", dtype=torch.bfloat16)
    config = FitConfig(lr=0.01, epochs=2, batch_size=8, recompute_blocks=True)
    result = fit(rough, controller(), OpenRate(towards()), config, progress=False)
    exact = fit(model(), controller(), OpenRate(towards()), config, progress=False)
    assert {p.dtype for iv in writing(result.steering) for p in iv.adapter.parameters()} == {torch.float32}
    for one, other in zip(result.history, exact.history, strict=True):
        assert one.dev["teacher_kl"] == pytest.approx(other.dev["teacher_kl"], rel=0.05)
