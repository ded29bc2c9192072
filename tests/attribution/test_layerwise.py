"""The logit lens and the change of the residual stream, against the model itself and what was planted."""

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.attribution import logit_lens, residual_change
from mechsteer.errors import ConfigError, ShapeError

TEXT = "Hello there"


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return toys.shared(request.param)


def test_the_last_layer_is_the_models_own_prediction(model):
    lens = logit_lens(model, TEXT, k=3)
    tokens = ms.models.tokenize(model, [TEXT])[0]
    with torch.no_grad():
        probs = model(torch.tensor([tokens]))[0].float().softmax(-1)
    values, _ = probs.topk(3)
    np.testing.assert_allclose(lens.probabilities[-1], values.numpy(), rtol=1e-3, atol=1e-5)
    assert (lens.n_layers, len(lens.tokens)) == (toys.N_LAYERS, len(tokens))
    np.testing.assert_array_equal(lens.kl_to_last[-1], 0)
    assert lens.kl_to_last[0].max() > 0.01
    assert len(lens.frame()) == toys.N_LAYERS * len(tokens)


def test_the_change_is_what_was_added_where_it_was_added(model):
    v = toys.vector(3)
    found = residual_change(model, ms.Intervention(ms.adapters.Static(v), 1, coeff=2.0), TEXT, v)
    np.testing.assert_array_equal(found.norm[0], 0)
    assert np.isnan(found.cosine[0]).all()
    np.testing.assert_allclose(found.norm[1], 2 * float(v.norm()), rtol=1e-5)
    np.testing.assert_allclose(found.cosine[1], 1, rtol=1e-5)
    assert (np.abs(found.cosine[2]) < 0.999).all()  # the block above has answered
    assert found.norm[2].min() > 0
    against = residual_change(model, ms.Intervention(ms.adapters.Static(v), 1, coeff=-2.0), TEXT, v)
    np.testing.assert_allclose(against.cosine[1], -1, rtol=1e-5)


def test_what_cannot_be(model):
    with pytest.raises(ConfigError, match="k=0"):
        logit_lens(model, TEXT, k=0)
    with pytest.raises(ShapeError, match=r"a direction of shape \(3,\)"):
        residual_change(model, (), TEXT, torch.ones(3))
