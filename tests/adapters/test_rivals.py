"""Published rivals against their papers' formulas, written out: loops, numbers by hand, another library's orientation."""

from __future__ import annotations

import re

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.adapters import Cast, Clas, LoReft, MagnitudeOnly, Prototypes, Sadi
from mechsteer.errors import ConfigError, MechsteerError, NonFiniteError, ShapeError
from mechsteer.steering.presets import untrained

SITE = ms.Site(1)
PROMPTS = toys.prompts(9, 4, 6, 7, 5)
PAD = 258
U, V = toys.vector(4), toys.vector(3)


def left_padded(rows):
    width = max(map(len, rows))
    tokens = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    return tokens, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def recorded(model, iv, rows):
    """(deltas [batch pos d], readings) of one pass over rows that are all prompt, padded on the left."""
    tokens, mask = left_padded(rows)
    with torch.no_grad(), ms.steer(model, iv, record=True) as session:
        model(tokens, attention_mask=mask)
    return session.recorded[0][0], {name: series[0] for name, series in session.readings[0].items()}


def resid(model, row):
    """[pos d] behind block 1 of a row alone."""
    seen = []
    with torch.no_grad():
        model.run_with_hooks(
            torch.tensor([row]), fwd_hooks=[(SITE.resolve(model), lambda acts, hook: seen.append(acts[0].clone()))]
        )
    return seen[0]


def delta(adapter, acts, coeff=1.0):
    return adapter.delta(acts, None, coeff, ms.runtime.context.Context.whole(*acts.shape[:2]))[0].detach()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- cast ----------------------------------------------------------------------------------------------------------


def published_score(prompt, kind, pooling):
    """A prompt's [pos d] similarity to the condition, step by step in float64."""
    p = prompt.double().mean(0) if pooling == "mean" else prompt[-1].double()
    u = U.double()
    target = u
    if kind == "projected":
        projector = torch.outer(u, u) / torch.dot(u, u)
        target = torch.tanh(projector @ p)
    return float(torch.dot(p, target) / (p.norm() * target.norm()))


@pytest.mark.parametrize("rule", ["score_above", "score_below"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("kind", ["projected", "cosine"])
def test_cast_steers_the_rows_that_a_loop_over_them_would(kind, pooling, rule):
    model = toys.shared("llama")
    scores = [published_score(resid(model, row), kind, pooling) for row in PROMPTS]
    low, high = sorted(scores)[2:4]
    assert high - low > 1e-3
    adapter = Cast(V, U, (low + high) / 2, rule=rule, score=kind, pooling=pooling)
    deltas, readings = recorded(model, ms.Intervention(adapter, SITE, coeff=1.5), PROMPTS)
    met = [(score > adapter.threshold) == (rule == "score_above") for score in scores]
    assert 1 < sum(met) < 4
    for i, row in enumerate(PROMPTS):
        expected = 1.5 * V.expand(len(row), -1) if met[i] else torch.zeros(len(row), len(V))
        torch.testing.assert_close(deltas[i, -len(row) :], expected)
        torch.testing.assert_close(
            readings["score"][i, -len(row) :], torch.full((len(row),), scores[i]), rtol=0, atol=1e-5
        )


def test_cast_keeps_what_the_prompt_decided_while_it_generates():
    """The score is the prompt's to the end, whatever is written after it."""
    model = toys.shared("llama")
    adapter = Cast(V, U, -2.0, score="cosine")
    out = ms.generate(model, PROMPTS[:2], ms.Intervention(adapter, SITE), max_new_tokens=5, record=True)
    for i in range(2):
        own = published_score(resid(model, PROMPTS[i]), "cosine", "mean")
        n = len(PROMPTS[i]) + 4  # the last new token is not read
        torch.testing.assert_close(out.readings[0]["score"][i][:n], torch.full((n,), own), rtol=0, atol=1e-5)


def test_cast_looks_at_one_layer_and_acts_on_another():
    model = toys.shared("llama")
    adapter = Cast(V, U, -2.0)
    read_low = recorded(model, ms.Intervention(adapter, 2, read=0), PROMPTS)[1]["score"]
    read_high = recorded(model, ms.Intervention(adapter, 2, read=1), PROMPTS)[1]["score"]
    at_low = recorded(model, ms.Intervention(adapter, 0), PROMPTS)[1]["score"]
    assert torch.equal(read_low.nan_to_num(), at_low.nan_to_num())
    assert not torch.allclose(read_low.nan_to_num(), read_high.nan_to_num())


# -- sadi ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signed", "expected"), [(False, [0.0, 2, 0, 4]), (True, [1.0, 0, 0, 4])])
def test_sadi_by_hand(signed, expected):
    adapter = Sadi([3.0, -5.0, 1.0, 4.0], 2, strength=0.5, signed=signed)
    acts = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, -4.0]]])
    found = delta(adapter, acts, coeff=2.0)
    torch.testing.assert_close(found[0, 0], torch.tensor(expected))
    torch.testing.assert_close(found[0, 1], -torch.tensor(expected))


def test_sadi_of_everything_scales_the_activation():
    acts = noise(2, 3, 5)
    torch.testing.assert_close(delta(Sadi(noise(5), 5, strength=3.0), acts), 3 * acts, rtol=1e-10, atol=0)


# -- loreft --------------------------------------------------------------------------------------------------------


def loreft(d=9, rank=3):
    adapter = LoReft(d, rank).double()
    with torch.no_grad():
        for i, p in enumerate(adapter.parameters()):
            p.add_(noise(*p.shape, seed=i))
    return adapter


def test_loreft_is_the_published_formula():
    """As pyreft computes it: base + (W base + b − base R) Rᵀ, with R [d_model rank]."""
    adapter, base = loreft(), noise(2, 4, 9, seed=7)
    rotate, source, bias = adapter.rotation().T, adapter.source(), adapter.bias
    rotated = torch.matmul(base, rotate)
    expected = torch.matmul((torch.nn.functional.linear(base, source, bias) - rotated), rotate.T)
    torch.testing.assert_close(delta(adapter, base, 0.7), (0.7 * expected).detach(), rtol=1e-10, atol=1e-12)


def test_loreft_edits_its_subspace_and_nothing_else():
    adapter, base = loreft(), noise(2, 4, 9, seed=7)
    rotation = adapter.rotation().detach()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    after, rest = base + delta(adapter, base), torch.eye(9, dtype=torch.float64) - rotation.T @ rotation
    torch.testing.assert_close(after @ rest, base @ rest, rtol=1e-10, atol=1e-12)
    wanted = base @ adapter.source().detach().T + adapter.bias.detach()
    torch.testing.assert_close(after @ rotation.T, wanted, rtol=1e-10, atol=1e-12)


def test_loreft_starts_as_the_identity_with_a_gradient():
    adapter, acts = LoReft(32, 4), 1e3 * torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    out = adapter.delta(acts, None, 1.0, ms.runtime.context.Context.whole(2, 5))[0]
    assert torch.equal(acts + out, acts)
    (out * acts).sum().backward()
    assert adapter.difference.grad.any()
    assert adapter.bias.grad.any()
    assert torch.equal(adapter.source(), adapter.rotation())


def test_loreft_moves_continuously_with_its_parameters():
    """QR flips a column where its pivot changes sign; the rotation does not."""
    rotations = []
    for pivot in (1e-7, -1e-7):
        adapter = LoReft(3, 1)
        with torch.no_grad():
            adapter.basis.copy_(torch.tensor([[pivot], [1.0], [2.0]]))
        rotations.append(adapter.rotation().detach())
    torch.testing.assert_close(*rotations)
    torch.testing.assert_close(rotations[0][0], torch.tensor([0.0, 1.0, 2.0]) / 5**0.5)


def test_loreft_takes_its_rank_from_a_setting_and_has_the_published_count():
    model = toys.shared("llama")
    adapter = untrained(model, "loreft", SITE, rank=3).adapter
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 32 * 3 + 3


def test_loreft_learns_an_affine_map_of_its_rank():
    """Planted: the edit that is wanted is one of rank 2, and is found from h and h + edit alone."""
    planted, acts = loreft(8, 2), noise(1, 200, 8, seed=3)
    wanted = acts + delta(planted, acts)
    torch.manual_seed(1)
    adapter = LoReft(8, 2).double()
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (
            (acts + adapter.delta(acts, None, 1.0, ms.runtime.context.Context.whole(1, 200))[0] - wanted).pow(2).mean()
        )
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-10 * float((wanted - acts).pow(2).mean())


# -- clas ----------------------------------------------------------------------------------------------------------


def test_clas_is_a_strength_per_token_along_a_frozen_direction():
    adapter, acts = Clas(noise(6)).double(), noise(2, 4, 6, seed=1)
    with torch.no_grad():
        adapter.weight.copy_(noise(6, seed=2))
        adapter.bias.fill_(0.5)
    found = delta(adapter, acts, 2.0)
    for i in range(2):
        for t in range(4):
            strength = float(acts[i, t] @ adapter.weight.detach()) + 0.5
            torch.testing.assert_close(found[i, t], 2 * strength * adapter.vector, rtol=1e-10, atol=1e-12)
    assert {name for name, _ in adapter.named_parameters()} == {"weight", "bias"}


def test_the_strength_is_a_reading():
    model, adapter = toys.shared("llama"), Clas(V)
    with torch.no_grad():
        adapter.bias.fill_(-0.25)
    readings = recorded(model, ms.Intervention(adapter, SITE), PROMPTS[:1])[1]
    torch.testing.assert_close(readings["strength"], torch.full((1, 9), -0.25))
    torch.testing.assert_close(readings["delta_norm"], torch.full((1, 9), 0.25) * V.norm())


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Cast(V, U, 0.1, rule="above"), ConfigError, "rule is 'above', score 'projected'"),
        (lambda: Cast(V, U, 0.1, score="dot"), ConfigError, "score 'dot'"),
        (lambda: Cast(V, U, float("nan")), NonFiniteError, "the threshold is nan"),
        (lambda: Cast(V, torch.zeros(32), 0.1), NonFiniteError, "the condition is the zero vector"),
        (lambda: Cast(V, U, 0.1, pooling="max"), ConfigError, "no pooling 'max'"),
        (lambda: recorded(toys.shared("llama"), ms.Intervention(Cast(V, U[:7], 0.1), 1), PROMPTS), ShapeError, "has 7"),
        (lambda: Sadi(V, 0), ConfigError, "k is 0 of 32 elements"),
        (lambda: Sadi(V, 33), ConfigError, "k is 33 of 32 elements"),
        (lambda: delta(Sadi(V[:7], 2), torch.ones(1, 1, 32)), ShapeError, "the mask has 7 elements"),
        (lambda: LoReft(8, 9), ConfigError, "rank is 9 at a site of 8 numbers"),
        (lambda: LoReft.fresh(8, 9), ConfigError, "loreft reads and writes one site, not 8 numbers here and 9 there"),
        (lambda: LoReft.fresh(8, 8, hidden=1), ConfigError, "loreft has no options ['hidden']"),
        (lambda: Clas(torch.zeros(8)), NonFiniteError, "the direction is zero"),
        (lambda: delta(Clas(V[:7]), torch.ones(1, 1, 32)), ShapeError, "clas reads 7 numbers"),
        (lambda: untrained(toys.shared("llama"), "cast", SITE), ConfigError, "cast takes a vector, a condition"),
        (lambda: untrained(toys.shared("llama"), "sadi", SITE), ConfigError, "sadi takes a mean difference"),
        (lambda: untrained(toys.shared("llama"), "clas", SITE), ConfigError, "clas trains the strength of a direction"),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        make()
    assert isinstance(caught.value, MechsteerError)
    assert caught.value.hint


# -- on a model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: LoReft(32, 2), lambda: Clas(V)], ids=["loreft", "clas"])
def test_what_is_trained_learns_and_what_is_frozen_stays(make):
    model, scope = toys.shared("llama"), ms.TokenScope.generated(include_last_prompt=True)
    samples = [(prompt, [65, 66, 65]) for prompt in toys.prompts(*[4] * 12, seed=8)]
    objective = ms.training.CrossEntropy([ms.runtime.batches.Sample(*sample) for sample in samples], kl_weight=0.0)
    iv = ms.Intervention(make(), SITE, scope=scope)
    result = ms.training.fit(
        model, iv, objective, ms.training.FitConfig(epochs=40, batch_size=4, lr=0.03), progress=False
    )
    losses = [epoch.train["loss"] for epoch in result.history]
    assert losses[-1] < losses[0] - 0.1  # nats; a random direction can do little
    before, after = iv.adapter.state_dict(), result.steering.interventions[0].adapter.state_dict()
    frozen = {name for name, _ in iv.adapter.named_buffers()}
    assert {name for name in before if torch.equal(before[name], after[name])} == frozen


ADAPTERS = {
    "cast": lambda: Cast(V, U, -2.0),
    "sadi": lambda: Sadi(V, 3),
    "loreft": lambda: LoReft(32, 2),
    "clas": lambda: Clas(V),
    "prototypes": lambda: Prototypes(torch.stack([U, V])),
    "magnitude only": lambda: MagnitudeOnly(Sadi(V, 3), U),
}


@pytest.mark.parametrize("make", ADAPTERS.values(), ids=ADAPTERS)
def test_activations_are_stored_under_them(make, tmp_path):
    model, iv = toys.shared("llama"), ms.Intervention(make(), SITE)
    stored = ms.capture(model, PROMPTS, 2, interventions=iv, path=tmp_path / "acts", progress=False)
    kept = ms.capture(model, PROMPTS, 2, interventions=iv, progress=False)
    assert torch.equal(torch.cat([batch.flat() for batch in stored[ms.Site(2)]]), kept[ms.Site(2)].flat())
