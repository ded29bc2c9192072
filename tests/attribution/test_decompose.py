"""Readings of a delta: components + residual = delta, planted codes are found, maps meet what is expressed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import mechsteer as ms
from mechsteer.attribution import attribute_encoder, attribute_logits, attribute_maps
from mechsteer.errors import ConfigError, ModelMismatchError, NonFiniteError, ShapeError
from tests import toys
from tests.attribution.toy_adapters import PROMPTS, Linear, ToySAE, vector

SITE = ms.Site(1, "resid_post")


@pytest.fixture(scope="module")
def dynamic(model_of):
    return ms.deltas(model_of("bridge-llama"), ms.Intervention(Linear(), SITE), PROMPTS)


def orthonormal(n: int = toys.D_MODEL) -> ms.bases.Basis:
    q, _ = torch.linalg.qr(
        torch.randn(toys.D_MODEL, toys.D_MODEL, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    )
    return ms.bases.from_directions(q[:n])


def static_deltas(model, v: torch.Tensor, coeff: float = 1.0):
    return ms.deltas(model, ms.Intervention(ms.adapters.Static(v), SITE, coeff=coeff), PROMPTS)


def assert_adds_up(att) -> None:
    whole = att.tokens.to_dense() @ att.basis.directions.double() + att.residuals
    torch.testing.assert_close(whole, att.deltas, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(att.components + att.residuals, att.deltas, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(att.coefficients, att.tokens.to_dense().mean(0), rtol=1e-10, atol=1e-12)
    missed = att.residuals.norm(dim=1)
    assert att.residual == pytest.approx(float(missed.mean()))
    assert att.explained == pytest.approx(1 - float(missed.square().sum() / att.deltas.square().sum()))
    assert type(att).from_dict(att.to_dict()) == att


def test_an_orthonormal_basis_reproduces_the_delta_exactly(dynamic):
    att = ms.attribute(dynamic, orthonormal())
    assert att.reading == "projection"
    assert_adds_up(att)
    torch.testing.assert_close(att.deltas.float(), dynamic.at().rows)
    assert att.explained == pytest.approx(1)
    assert att.residual < 1e-6 * att.norm
    assert float(att.energy.sum()) == pytest.approx(1)
    half = ms.attribute(dynamic, orthonormal(10))
    assert_adds_up(half)
    assert float(half.energy.sum()) == pytest.approx(half.explained)
    torch.testing.assert_close(half.coefficients, att.coefficients[:10])


def test_three_planted_decoder_rows_are_found(model_of):
    basis = ms.bases.from_sae(ToySAE())
    planted = {4: 2.0, 50: -1.5, 91: 1.0}
    v = sum(c * basis.directions[i] for i, c in planted.items())
    att = ms.attribute(static_deltas(model_of("bridge-llama"), v, coeff=2.0), basis, k=8)
    assert len(att.coded.distinct) == 1  # one static vector, whatever the number of tokens
    assert att.n_tokens == sum(map(len, PROMPTS))
    assert_adds_up(att)
    assert att.explained == pytest.approx(1)
    found = att.frame().set_index("label")["coefficient"]
    large = found[found.abs() > 1e-4]
    assert dict(large.round(4)) == {"f4": 4.0, "f50": -3.0, "f91": 2.0}
    assert att.top(1)["label"].tolist() == ["f4"]


def test_pursuit_of_dynamic_deltas_adds_up_and_explains_more_with_more_atoms(dynamic):
    basis = ms.bases.from_sae(ToySAE())
    explained = []
    for k in (1, 4, 12):
        att = ms.attribute(dynamic, basis, k=k)
        assert_adds_up(att)
        assert int((att.tokens.to_dense() != 0).sum(1).max()) == k
        explained.append(att.explained)
    assert explained == sorted(explained)
    assert explained[0] < 0.6 < explained[2] < 1


def test_the_encoder_reads_the_change_of_its_features(dynamic):
    sae = ToySAE()
    att = attribute_encoder(dynamic, sae)
    assert_adds_up(att)
    part = dynamic.at()
    h, rows = part.acts[part.touched], part.rows
    change = (sae.encode(h + rows) - sae.encode(h)).detach()
    torch.testing.assert_close(att.components.float(), change @ sae.W_dec.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(att.tokens.to_dense().float(), change * sae.W_dec.detach().norm(dim=1))
    with pytest.raises(ConfigError, match="no autoencoder behind it"):
        attribute_encoder(dynamic, orthonormal())


@pytest.mark.parametrize("kind", ["bridge-llama", "bridge-gpt2", "hooked-qwen3", "hooked-gpt2", "compat-gpt2"])
def test_maps_really_meet_what_a_reading_basis_expresses(model_of, kind):
    """‖W (norm(h + delta) − norm(h))‖² of the next layer's v, once from singular directions, once by running."""
    model, iv = model_of(kind), ms.Intervention(Linear(), SITE)
    d = ms.deltas(model, iv, PROMPTS)
    attributions = attribute_maps(d, ms.bases.singular(model, ("q", "v"), site=SITE))
    assert list(attributions) == ["q.2", "v.2"]
    att = attributions["v.2"]
    assert_adds_up(att)
    assert att.expressed == "norm(h + delta) − norm(h)"
    read = (att.tokens.to_dense() * att.basis.values).square().sum(1)
    changes = []
    for prompt in PROMPTS:
        hook = ms.Site(2, "v_out").resolve(model)
        _, clean = model.run_with_cache(torch.tensor([prompt]))
        with ms.steer(model, iv):
            _, steered = model.run_with_cache(torch.tensor([prompt]))
        changes.append((steered[hook] - clean[hook])[0].flatten(1).double().square().sum(1))
    torch.testing.assert_close(read, torch.cat(changes), rtol=1e-3, atol=1e-5)


def test_written_directions_need_no_norm(model_of, dynamic):
    att = attribute_maps(dynamic, ms.bases.singular(model_of("bridge-llama"), ("o",), layers=1, side="left"))["o.1"]
    assert att.expressed == "delta"
    assert att.explained == pytest.approx(1)
    assert_adds_up(att)


@pytest.mark.parametrize("kind", ["bridge-llama", "hooked-gpt2", "compat-gpt2"])
def test_direct_logits_are_the_models_own_at_the_last_site(model_of, kind):
    model = model_of(kind)
    for site, is_last in ((ms.Site(2, "resid_post"), True), (ms.Site(0, "mlp_out"), False)):
        iv = ms.Intervention(ms.adapters.Static(vector()), site, scope=ms.TokenScope.from_position(1))
        att = attribute_logits(model, ms.deltas(model, iv, PROMPTS))
        changes = []
        for prompt in PROMPTS:
            tokens = torch.tensor([prompt])
            clean = model(tokens)
            with ms.steer(model, iv):
                changes.append((model(tokens) - clean)[0, 1:])
        whole = torch.cat(changes).double().mean(0)
        torch.testing.assert_close(att.whole, whole, rtol=1e-3, atol=1e-4)
        if is_last:
            torch.testing.assert_close(att.direct, whole, rtol=1e-3, atol=1e-4)
            assert att.explained == pytest.approx(1, abs=1e-6)
        else:
            assert att.explained < 0.99
            assert att.residual > 0.1 * att.norm
        best = int(att.direct.argmax())
        assert att.promoted(1)["token_id"].tolist() == [best]
        assert att.promoted(1)["token"].tolist() == [model.tokenizer.decode([best])]
        assert att.suppressed(1)["token_id"].tolist() == [int(att.direct.argmin())]
        assert type(att).from_dict(att.to_dict()) == att


def test_deltas_of_zero_explain_nothing(model_of):
    d = static_deltas(model_of("bridge-llama"), torch.zeros(toys.D_MODEL))
    for basis in (orthonormal(), ms.bases.from_sae(ToySAE())):
        att = ms.attribute(d, basis)
        assert math.isnan(att.explained)
        assert float(att.coefficients.abs().sum()) == 0
        assert type(att).from_dict(att.to_dict()) == att


def test_what_does_not_fit_is_refused(model_of, dynamic):
    with pytest.raises(ShapeError, match="32 dimensions, the directions 8"):
        ms.attribute(dynamic, ms.bases.from_directions(torch.eye(8)))
    with pytest.raises(ModelMismatchError, match="fingerprint"):
        ms.attribute(dynamic, ms.bases.singular(model_of("bridge-qwen3"), ("q",), layers=2))
    with pytest.raises(ModelMismatchError):
        attribute_logits(model_of("bridge-qwen3"), dynamic)
    inner = ms.deltas(
        model_of("bridge-llama"), ms.Intervention(ms.adapters.Static(torch.ones(32)), ms.Site(1, "z")), PROMPTS
    )
    with pytest.raises(ConfigError, match="does not write into the residual stream"):
        ms.attribute(inner, ms.bases.singular(model_of("bridge-llama"), ("q",), layers=2))
    broken = dataclasses.replace(dynamic.at(), values=torch.full_like(dynamic.values, float("nan")))
    with pytest.raises(NonFiniteError):
        ms.attribute(dataclasses.replace(dynamic, parts=(broken,)), orthonormal())


def test_explained_stands_beside_deltas_turned_at_random(model_of):
    """A vector made of three directions is explained by them; a random one by any dictionary of this size."""
    sae = ToySAE()
    basis = ms.bases.from_sae(sae)
    made = basis.directions[:3].sum(0)
    for v, is_made in ((made, True), (vector(4), False)):
        d = ms.deltas(model_of("bridge-llama"), ms.Intervention(ms.adapters.Static(v), SITE), PROMPTS)
        read = ms.attribute(d, basis, k=3, nulls=19, seed=1)
        beside = read.beside_null
        assert beside.own == pytest.approx(read.explained)
        assert beside.null.low <= beside.null.value <= beside.null.high < 0.95
        assert (beside.p == 1 / 20) is is_made
        turned = np.mean(
            [
                ms.attribute(
                    ms.deltas(model_of("bridge-llama"), ms.Intervention(ms.adapters.Static(v), SITE), PROMPTS),
                    null,
                    k=3,
                    nulls=0,
                ).explained
                for null in ms.bases.meaningless(basis, 8, seed=2)
            ]
        )
        assert beside.null.value == pytest.approx(float(turned), abs=0.12)  # turning the delta turns the dictionary
    assert ms.attribute(d, basis, k=3, nulls=0).beside_null is None
    encoder = attribute_encoder(d, sae, nulls=5)
    assert encoder.beside_null.own == pytest.approx(encoder.explained)
    assert encoder.beside_null.n == 5
    whole = ms.attribute(d, ms.bases.from_directions(torch.eye(32)))
    assert whole.beside_null.p == 1  # every orthonormal basis of full size explains everything
    with pytest.raises(ConfigError, match="-1 nulls"):
        ms.attribute(d, basis, nulls=-1)
