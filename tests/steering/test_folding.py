"""Folding: W x + (b + c·v) = (W x + b) + c·v, and back to the bit."""

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError

TOKENS = torch.tensor(toys.prompts(9, 9))


def static(point="resid_post", layer=1, coeff=1.5, seed=1, **more):
    return ms.Intervention(ms.adapters.Static(toys.vector(seed)), ms.Site(layer, point), coeff=coeff, **more)


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_folded_equals_steered_and_unfolds_bit_exactly(family, kind):
    model = toys.load(family, kind)
    steering = ms.Steering([static(), static("attn_out", 0, -1.0, 2), static("resid_pre", 2, 0.5, 3)], coeff=0.8)
    with torch.no_grad():
        before = model(TOKENS)
        with ms.steer(model, steering):
            steered = model(TOKENS)
        ms.fold(model, steering)
        folded = model(TOKENS)
        texts = ms.generate(model, TOKENS.tolist(), max_new_tokens=6, stop_tokens=()).tokens
        ms.unfold(model)
        after = model(TOKENS)
    assert (steered - before).abs().max() > 1e-2
    torch.testing.assert_close(folded.log_softmax(-1), steered.log_softmax(-1), rtol=0, atol=1e-5)
    assert torch.equal(after, before)
    assert texts == ms.generate(model, TOKENS.tolist(), steering, max_new_tokens=6, stop_tokens=()).tokens
    fresh = toys.load(family, kind)
    assert ms.model_fingerprint(model) == ms.model_fingerprint(fresh)


def test_what_no_bias_can_express_is_refused_and_nothing_changes():
    model = toys.load("llama")
    fingerprint = ms.model_fingerprint(model)
    for iv, message in (
        (static(scope=ms.TokenScope.generated()), "the scope"),
        (static("resid_pre", 0), "the site resid_pre@0"),
        (ms.Intervention(ms.adapters.Static(toys.vector(size=48)), ms.Site(1, "mlp_post")), "the site mlp_post@1"),
        (
            ms.Intervention(ms.adapters.Static(toys.vector(size=7)), ms.Site(1, "q_out")),
            "7 entries, the map q writes 32",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            ms.fold(model, [static(), iv])
        assert ms.model_fingerprint(model) == fingerprint


def test_twice_inside_steer_and_unfold_of_nothing_are_refused():
    model = toys.load("gpt2")
    with pytest.raises(ConfigError, match="nothing is folded"):
        ms.unfold(model)
    with ms.steer(model, static()), pytest.raises(ConfigError, match="inside a steer block"):
        ms.fold(model, static())
    ms.fold(model, static())
    with pytest.raises(ConfigError, match="folded into this model already"):
        ms.fold(model, static())
    ms.unfold(model)
