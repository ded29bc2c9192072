"""The recurrent controller: its equations, sizes, and the same numbers in one pass, in pieces, padded, over windows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.adapters import Gru, n_parameters
from mechsteer.errors import ConfigError
from mechsteer.runtime.context import Context
from mechsteer.signals import StepEntropy, WindowedH0

D = 12
SMALL = {"d_input": 5, "d_hidden": 6, "rank": 3, "signal_window": 4}
FORMS = {
    "lowrank": {},
    "plan": {"plan": True},
    "hyper": {"decoder": "hyper", "d_plan": 2},
    "window": {"window": 4},
    "h0": {"h0": True},
}
forms = pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)


def noisy(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gru = Gru(D, D, **SMALL | options).double()
        for p in gru.parameters():
            p.data.add_(0.5 * torch.randn_like(p))
    return gru


def rows(n=9, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, D, dtype=torch.float64, generator=generator).cumsum(1)


def whole(acts, mask=None):
    return Context.whole(*acts.shape[:2], attention_mask=mask)


def by_hand(gru, acts):
    """delta [pos D] of one row, token after token, from the equations."""
    (cell,) = [torch.nn.GRUCell(5, 6, dtype=torch.float64)]
    cell.load_state_dict({name.removesuffix("_l0"): t for name, t in gru.encoder.state_dict().items()})
    signals, deviations, _ = gru.signals(acts[None, 1:])
    z, plan, deltas = torch.zeros(1, 6, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64), []
    for t, h in enumerate(acts):
        x = h / h.square().mean().sqrt()
        z = cell(gru.project(x)[None], z)
        if gru.window is not None:
            z = torch.zeros_like(z)
            for before in acts[max(0, t - gru.window + 1) : t + 1]:
                z = cell(gru.project(before / before.square().mean().sqrt())[None], z)
        own = torch.cat([s[0, t - 1] if t else 0 * s[0, 0] for s in (signals, deviations)])
        gate = torch.sigmoid(gru.gate(torch.cat([z[0], own])))
        decoder = gru.decoder
        if hasattr(decoder, "narrow"):
            narrow = decoder.narrow(z)
            if decoder.plan is not None:
                step = torch.nn.GRUCell(3, 3, dtype=torch.float64)
                step.load_state_dict({k.removesuffix("_l0"): v for k, v in decoder.plan.state_dict().items()})
                narrow = plan = step(narrow, plan)
            u = decoder.written @ narrow[0]
        else:
            q = torch.tanh(decoder.plan(z[0]))
            f = sum(q[k] * decoder.written.unflatten(1, (2, 3))[:, k] for k in range(2))
            g = sum(q[k] * decoder.read.unflatten(0, (2, 3))[k] for k in range(2))
            u = f @ (g @ x)
        deltas.append(gate * u)
    return torch.stack(deltas)


@forms
@torch.no_grad()
def test_the_delta_is_that_of_the_equations(options):
    gru, acts = noisy(**options), rows()
    delta, _ = gru.delta(acts, None, 2.0, whole(acts))
    expected = torch.stack([2.0 * by_hand(gru, row) for row in acts])
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(delta, expected, rtol=1e-9, atol=1e-9)


@forms
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_pieces_and_padding_change_nothing(options, side):
    gru, acts = noisy(**options), rows()
    expected, _ = gru.delta(acts, None, 1.0, whole(acts))
    short = torch.cat([acts[1:, :6], acts.new_full((1, 3, D), 50.0)], 1)
    batch = torch.cat([acts[:1], short if side == "right" else short.roll(3, 1)])
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, slice(6, 9) if side == "right" else slice(0, 3)] = False
    ctx, state, found = whole(batch, mask), None, []
    for columns in ([0, 4], [4, 5], [5, 6], [6, 9]):
        at = slice(*columns)
        piece = replace(ctx, mask=mask[:, at], positions=ctx.positions[:, at], is_prefill=at.start == 0)
        delta, state = gru.delta(batch[:, at], state, 1.0, piece)
        found.append(delta)
    found = torch.cat(found, 1)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1][mask[1]], expected[1, :6], rtol=1e-9, atol=1e-9)


def test_readings_are_the_gate_and_the_signals_of_the_row_without_its_first_token():
    gru, acts = noisy(h0=True), rows()
    acts[:, 0] = 1e4
    ctx = replace(whole(acts), readings={})
    gru.delta(acts, None, 1.0, ctx)
    gate = ctx.readings["gate"]
    assert gate.shape == (2, 9)
    assert ((gate > 0) & (gate < 1)).all()
    assert gru.signals.names == ("coherence", "variance", "step_entropy", "h0_entropy")
    assert set(ctx.readings) == {"gate", *gru.signals.names}
    assert not any(ctx.readings[name][:, 0].any() for name in gru.signals.names)
    for signal in (StepEntropy(4), WindowedH0(4)):
        torch.testing.assert_close(ctx.readings[signal.name][:, 1:], signal(acts[:, 1:])[0])


def test_a_jump_moves_the_signals_away_from_their_mean():
    """What opens the gate in either direction: the fourth kind of input, beside the value itself."""
    acts = rows(40)
    acts[1, 30] += 100
    for row, is_far in ((0, False), (1, True)):
        _, deviations, _ = noisy().signals(acts[row : row + 1])
        assert (deviations[0, 30, 2] > 0.5) == is_far


@torch.no_grad()
def test_the_gate_begins_closed_and_nothing_is_added():
    gru = Gru(64, 64)
    acts = torch.randn(4, 30, 64, generator=torch.Generator().manual_seed(2))
    ctx = replace(whole(acts), readings={})
    delta, _ = gru.delta(acts, None, 1.0, ctx)
    assert not delta.any()
    assert 0.05 < float(ctx.readings["gate"].mean()) < 0.2


def test_sizes():
    """Fewer than three million parameters at the width of a small model, in either form; A begins at zero."""
    sizes = {name: n_parameters(Gru(1024, 1024, **options)) for name, options in FORMS.items() if name != "window"}
    encoder = 1024 * 256 + 256 + 3 * 256 * (256 + 256) + 6 * 256
    assert sizes["lowrank"] == encoder + (256 + 2 * 3 + 1) + 16 * 256 + 1024 * 16
    assert n_parameters(Gru(1024, 1024, decoder="hyper")) == encoder + (256 + 2 * 3 + 1) + 264_200
    assert max(sizes.values()) < 1_000_000


def test_what_is_written_learns_as_an_activation_does():
    for options in ({}, {"decoder": "hyper"}):
        (written,) = Gru(D, D, **SMALL, **options).activation_parameters()
        assert written.shape[0] == D
        assert not written.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "mlp"}, "no decoder 'mlp'"),
        ({"decoder": "hyper", "plan": True}, "has a plan of its own"),
        ({"window": 0}, "window is 0"),
        ({"signal_window": 1}, "the window of step_entropy is 1"),
        ({"d_hidden": 0}, "d_hidden is 0"),
        ({"rank": 0}, "rank is 0"),
        ({"h0": 1}, "h0 is 1"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Gru(D, D, **options)


def test_generation_writes_what_whole_forwards_do():
    """One prompt alone, and in a batch with others of other lengths; its gate stands in the readings."""
    model = toys.shared("llama")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        iv = ms.steering.presets.untrained(model, "gru", ms.Site(0), d_input=8, d_hidden=8, h0=True)
        for p in iv.adapter.parameters():
            p.data.add_(0.3 * torch.randn_like(p))
    prompts = toys.prompts(4, 9, 6)
    batch = ms.generate(model, prompts, iv, max_new_tokens=6, stop_tokens=(), record=True)
    assert batch.engine == "twin"
    for i, prompt in enumerate(prompts):
        ids = list(prompt)
        for _ in range(6):
            with ms.steer(model, iv, record=True) as session, torch.no_grad():
                ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        assert batch.tokens[i] == ids[len(prompt) :]
        gate = session.readings[0]["gate"][-1][0]
        noted = batch.readings[0]["gate"][i, : len(gate)]
        torch.testing.assert_close(noted, gate, rtol=1e-4, atol=1e-5)
