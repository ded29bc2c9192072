"""Detectors of tokens, of contexts and of disturbance, each planted, each told for what it is."""

import math

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.features import ContextAccumulator, falsification
from mechsteer.features.encoding import encode
from mechsteer.features.falsification import (
    Falsification,
    InjectionEffect,
    cohens_d,
    falsify,
    judged,
)
from mechsteer.features.injection import HOWS, inject, matched_tokens
from mechsteer.features.sae_reader import ReadSAE, SAEConfig
from mechsteer.models import backend_of
from mechsteer.results import Interval, from_json, to_json

EMBEDDED = ms.Site(0, "resid_pre")
A, B = 12, 13  # tokens that no neutral text holds; 0 to 11 are neutral, 12 to 23 foreign


def texts(n, low=0, high=12, length=14, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (n, length), generator=generator).tolist()


def autoencoder(columns, biases):
    """One that reads relu(x w + b) per column w [d_model]."""
    width = len(columns[0])
    config = SAEConfig(architecture="standard", d_in=width, d_sae=len(columns), dtype="float32")
    rows = torch.nn.functional.normalize(toys.vector(2, len(columns) * width).reshape(-1, width), dim=1)
    weights = {"W_enc": torch.stack(columns, 1), "W_dec": rows, "b_dec": torch.zeros(width)}
    return ReadSAE(config, weights | {"b_enc": torch.tensor(biases)}).eval()


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


@pytest.fixture(scope="module")
def detectors(model):
    """Feature 0 is 1 on token A; 1 on all foreign tokens; 2 on A, a little on all others; 3 is dead."""
    table = (
        backend_of(model).weights.embed(torch.arange(24)).detach().float()
    )  # 24 tokens in 32 dimensions: every readout is exact
    foreign = (torch.arange(24) >= 12).float()
    wanted = [torch.eye(24)[A], foreign, 0.8 * torch.eye(24)[A] + 0.2, torch.zeros(24)]
    return autoencoder([torch.linalg.lstsq(table, w[:, None]).solution[:, 0] for w in wanted], [0.0, 0.0, 0.0, -1.0])


def seen_in(model, sae, site, rows):
    seen = ContextAccumulator(range(sae.cfg.d_sae))
    acts = ms.capture(model, rows, [site], progress=False)[site]
    seen.update(acts.tokens, encode(sae, acts.values.float()), acts.mask)
    counts = np.bincount(np.concatenate(rows))
    return seen.result(), {token: int(n) for token, n in enumerate(counts) if n}


def test_tokens_disturbance_and_silence_are_told_apart(model, detectors):
    seen, counts = seen_in(model, detectors, EMBEDDED, texts(30, high=24))
    counts = {token: n for token, n in counts.items() if token >= 12}  # so that the control is foreign as well
    found = falsify(model, detectors, EMBEDDED, seen, texts(24, seed=5), counts, n_boot=200, n_tokens=1)
    assert [row.kind for row in found.features] == ["token-driven", "unclear", "token-driven", "unclear"]
    token, foreign, _, dead = found.features
    assert token.tokens == (A,)
    assert token.strongest.d.value == math.inf  # 0 in all plain texts, 1 in all injected ones
    assert token.strongest.reach == pytest.approx(1.0, abs=1e-4)
    assert "other tokens in the same places do as much" in foreign.why
    assert "fires on no token" in dead.why
    assert found.kind_of(0) == "token-driven"
    assert found.kind_of(9) is None
    assert from_json(Falsification, to_json(found)) == found
    assert len(found.frame()) == 4


def with_a_context():
    """A model whose first block writes into dimension 16 which share of the tokens so far was B; A is dimension 0."""
    hf = toys.hf_model("llama")
    size = toys.D_MODEL**0.5  # so that the norm before the attention changes nothing
    with torch.no_grad():
        for name, p in hf.named_parameters():
            p.copy_(torch.full_like(p, float("norm" in name)))
        table = torch.zeros(toys.D_VOCAB, toys.D_MODEL)
        table[:, 2:16] = toys.vector(5, toys.D_VOCAB * 14).reshape(-1, 14)
        table[A], table[B] = torch.eye(toys.D_MODEL)[0], torch.eye(toys.D_MODEL)[1]
        hf.model.embed_tokens.weight.copy_(size * torch.nn.functional.normalize(table, dim=1))
        attention = hf.model.layers[0].self_attn  # queries are 0: it looks at all tokens alike
        attention.v_proj.weight[0, 1] = 1.0
        attention.o_proj.weight[16, 0] = 1.0
    return ms.load_model(hf, tokenizer=toys.tokenizer()), size


def test_a_context_is_no_token():
    """A feature that fires on A where B stood before; A in other texts does not make it fire."""
    model, size = with_a_context()
    site, generator = ms.Site(0, "resid_post"), np.random.default_rng(0)
    rows = texts(40, length=10)
    for i, row in enumerate(rows):
        at = int(generator.integers(7, 10))
        row[at] = A
        if i % 2:
            row[at - 2 : at] = [B, B]
    column = torch.zeros(toys.D_MODEL)
    column[0], column[16] = 1 / size, 3 / size
    sae = autoencoder([column], [-1.05])
    seen, counts = seen_in(model, sae, site, rows)
    assert seen[0].token_shares == ((A, 1.0),)
    assert len(seen[0].contexts) == 10  # of the twenty rows with B
    found = falsify(model, sae, site, seen, texts(24, seed=5), counts, n_boot=200, n_injected=1)
    (row,) = found.features
    assert row.kind == "context-driven"
    assert all(effect.d.value == 0 for effect in row.effects)


def test_figures_do_not_depend_on_other_features_or_batches(model, detectors):
    seen, counts = seen_in(model, detectors, EMBEDDED, texts(30, high=24))
    neutral = texts(12, seed=5)
    whole = falsify(model, detectors, EMBEDDED, seen, neutral, counts, n_boot=50)
    alone = falsify(model, detectors, EMBEDDED, [seen[1]], neutral, counts, n_boot=50, batch_size=5)
    (one,) = alone.features
    assert one.tokens == whole.features[1].tokens
    assert one.controls == whole.features[1].controls
    for got, expected in zip(one.effects, whole.features[1].effects, strict=True):
        assert got.reach == pytest.approx(expected.reach, rel=1e-4)
    assert falsify(model, detectors, EMBEDDED, seen, neutral, counts, n_boot=50) == whole


def test_cohens_d_against_numpy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 40), rng.normal(0.7, 2, 40)
    expected = (b.mean() - a.mean()) / math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    assert cohens_d(a, b)[0] == pytest.approx(expected, rel=1e-10)
    drawn = rng.multinomial(40, np.full(40, 1 / 40), size=3)
    for weights, got in zip(drawn, cohens_d(a, b, drawn), strict=True):
        x, y = np.repeat(a, weights), np.repeat(b, weights)
        expected = (y.mean() - x.mean()) / math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
        assert got == pytest.approx(expected, rel=1e-10)
    assert cohens_d(np.zeros(4), np.zeros(4))[0] == 0
    assert cohens_d(np.full(4, 0.1), np.full(4, 0.1))[0] == 0
    assert cohens_d(np.zeros(4), np.full(4, 0.1))[0] == math.inf
    assert math.isnan(cohens_d(np.zeros(1), np.ones(1))[0])


def effect(d, low, high, excess_low=1.0):
    interval = Interval(value=d, low=low, high=high)
    excess = Interval(value=d, low=excess_low, high=9.0)
    return InjectionEffect(how="prepend", figure="max", d=interval, control=interval, excess=excess, reach=0.5)


@pytest.mark.parametrize(
    ("effects", "kind"),
    [
        ([effect(0.8, 0.5, 1)], "token-driven"),
        ([effect(0.79, 0.5, 1)], "partly token-driven"),
        ([effect(0.1, 0.0, 0.2), effect(0.2, 0.1, 0.3)], "partly token-driven"),
        ([effect(2.0, 1.5, 3, excess_low=-0.1)], "unclear"),
        ([effect(0.1, -0.1, 0.3, excess_low=-0.1)], "context-driven"),
        ([effect(0.1, -0.6, 0.6, excess_low=-0.1)], "unclear"),
        ([effect(math.inf, math.nan, math.nan, excess_low=math.nan)], "token-driven"),
    ],
)
def test_classes_follow_the_limits(effects, kind):
    assert judged(effects)[0] == kind


@pytest.mark.parametrize("how", HOWS)
def test_injected_tokens_are_there_and_the_rest_in_its_order(how):
    text, rng = list(range(100, 110)), np.random.default_rng(3)
    found = inject(text, [1, 2, 3], how, rng, bos=True)
    assert found[0] == 100
    assert sorted(token for token in found if token < 100) == [1, 2, 3]
    rest = [token for token in found if token >= 100]
    assert rest == sorted(rest)
    assert len(found) == (10 if how == "replace" else 13)
    others = inject(text, [7, 8, 9], how, np.random.default_rng(3), bos=True)
    assert [token >= 100 for token in others] == [token >= 100 for token in found]


def test_controls_are_as_common_and_others():
    counts = {token: 2**token for token in range(20)}
    found = matched_tokens([10, 11], counts, exclude=[9], rng=np.random.default_rng(0))
    assert len(set(found.values())) == 2
    assert not {9, 10, 11} & set(found.values())
    assert all(abs(control - token) <= 5 for token, control in found.items())
    with pytest.raises(DataError, match="no other token"):
        matched_tokens([1], {1: 3}, (), np.random.default_rng(0))


def test_refusals(model, detectors):
    seen, counts = seen_in(model, detectors, EMBEDDED, texts(30, high=24))
    with pytest.raises(DataError, match="0 neutral texts hold more than 3 tokens"):
        falsify(model, detectors, EMBEDDED, seen, [[1, 2]] * 9, counts)
    with pytest.raises(ConfigError, match="n_injected=0"):
        falsify(model, detectors, EMBEDDED, seen, texts(9), counts, n_injected=0)
    with pytest.raises(ConfigError, match="no features"):
        falsify(model, detectors, EMBEDDED, [], texts(9), counts)
    with pytest.raises(ConfigError, match="unknown injection 'append'"):
        inject([1], [2], "append", np.random.default_rng(0), bos=False)
    with pytest.raises(DataError, match="2 tokens replace those of a text of 1"):
        inject([1], [2, 3], "replace", np.random.default_rng(0), bos=False)


def test_the_control_stands_in_the_same_places(model, detectors, monkeypatch):
    rows, put = [], falsification.inject

    def noted(*given, **options):
        rows.append(put(*given, **options))
        return rows[-1]

    monkeypatch.setattr(falsification, "inject", noted)
    seen, counts = seen_in(model, detectors, EMBEDDED, texts(30, high=24))
    foreign = {token: n for token, n in counts.items() if token >= 12}
    falsify(model, detectors, EMBEDDED, [seen[0]], texts(10, seed=5), foreign, n_boot=10, n_tokens=1)
    places = [[token >= 12 for token in row] for row in rows]
    assert len(places) == 3 * 2 * 10
    for way in range(3):
        own, control = (places[20 * way + 10 * side :][:10] for side in (0, 1))
        assert own == control
        assert all(sum(row) == 3 for row in own)


def test_tokens_that_neutral_texts_hold_already_are_taken_out_first(model, detectors):
    seen, counts = seen_in(model, detectors, EMBEDDED, texts(30, high=24))
    full = [[*row, A] for row in texts(12, seed=5)]
    found = falsify(model, detectors, EMBEDDED, [seen[0]], full, counts, n_boot=10, n_tokens=1)
    assert {effect.d.value for effect in found.features[0].effects if effect.figure == "max"} == {math.inf}
