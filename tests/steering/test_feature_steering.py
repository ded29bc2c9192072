"""A feature that steers, against the whole autoencoder spliced in; and what it refuses."""

from types import SimpleNamespace

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError, ShapeError
from mechsteer.features.encoding import encode, encode_sparse, splice_fn
from mechsteer.features.feature_size import feature_max, sae_fingerprint
from mechsteer.features.sae_reader import ReadSAE, SAEConfig
from mechsteer.models import backend_of

D_SAE, SITE = 24, ms.Site(1, "resid_post")
PROMPTS = toys.prompts(30, 25)
VECTORS = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}
KINDS = {
    "standard": {"architecture": "standard"},
    "b_dec not subtracted": {"architecture": "standard", "apply_b_dec_to_input": False},
    "jumprelu": {"architecture": "jumprelu"},
    "gated": {"architecture": "gated"},
    "topk": {"architecture": "topk", "k": 6},
    "topk rescaled": {"architecture": "topk", "k": 6, "rescale_acts_by_decoder_norm": True},
}


def autoencoder(architecture="standard", dtype="float64", seed=0, **config):
    """A random one, whose decoder rows are no unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (toys.D_MODEL, D_SAE), "W_dec": (D_SAE, toys.D_MODEL), "b_dec": (toys.D_MODEL,)}
    shapes |= dict.fromkeys(VECTORS[architecture], (D_SAE,))
    weights = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    if "r_mag" in weights:
        weights["r_mag"] *= 0.3
    metadata = {"site": str(SITE)}
    config = {"architecture": architecture, "d_in": toys.D_MODEL, "d_sae": D_SAE, "metadata": metadata} | config
    weights = {name: value.to(getattr(torch, dtype)) for name, value in weights.items()}
    return ReadSAE(SAEConfig(dtype=dtype, **config), weights).eval()


@pytest.fixture(scope="module")
def model():
    return ms.load_model(toys.hf_model("llama", dtype=torch.float64), tokenizer=toys.tokenizer(), dtype=torch.float64)


@pytest.fixture(scope="module")
def corpus(model):
    acts = ms.capture(model, PROMPTS, [SITE], progress=False)[SITE]
    return acts.flat().double()


def living(sae, corpus):
    """A feature that fires on some tokens, not on all."""
    share = (encode(sae, corpus) > 0).double().mean(0)
    return int((share - 0.4).abs().argmin())


def steered(model, iv):
    with torch.no_grad(), ms.steer(model, iv):
        return [model(torch.tensor([row])) for row in PROMPTS]


def spliced(model, sae, edit):
    """The model with the whole autoencoder in the way, its error kept, its activations edited."""
    backend = backend_of(model)
    remove = backend.runner.attach(backend.names.hook_name(SITE.layer, SITE.point), splice_fn(sae, edit=edit))
    try:
        with torch.no_grad():
            return [model(torch.tensor([row])) for row in PROMPTS]
    finally:
        remove()


def held(index, target):
    def edit(features):
        changed = features.clone()
        changed[..., index] = target
        return changed

    return edit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["clamp", "ablate", "add"])
def test_equals_the_autoencoder_spliced_in(model, corpus, kind, mode):
    sae = autoencoder(**KINDS[kind])
    index = living(sae, corpus)
    iv = ms.steering.feature_steering(sae, index, corpus, mode=mode, gamma=1.5)
    f_max = iv.adapter.f_max
    assert f_max == pytest.approx(float(encode(sae, corpus)[:, index].max()))
    edits = {"clamp": held(index, 1.5 * f_max), "ablate": held(index, 0.0)}
    own = torch.nn.functional.one_hot(torch.tensor(index), D_SAE).double()
    edits["add"] = lambda features: features + 1.5 * f_max * own
    for got, expected in zip(steered(model, iv), spliced(model, sae, edits[mode]), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
    base = steered(model, [])
    assert (steered(model, iv)[0] - base[0]).abs().max() > 1e-3


def test_adding_nothing_adds_nothing_to_the_bit(model, corpus):
    sae = autoencoder()
    index = living(sae, corpus)
    base = steered(model, [])
    for gamma, coeff in ((0.0, 1.0), (1.0, 0.0)):
        iv = ms.steering.feature_steering(sae, index, corpus, gamma=gamma, coeff=coeff)
        assert all(torch.equal(a, b) for a, b in zip(steered(model, iv), base, strict=True))
    zero = ms.steering.feature_steering(sae, index, corpus, mode="clamp", gamma=0.0)
    gone = ms.steering.feature_steering(sae, index, corpus, mode="ablate")
    assert all(torch.equal(a, b) for a, b in zip(steered(model, zero), steered(model, gone), strict=True))


def test_the_reading_is_the_feature(model, corpus):
    sae = autoencoder("topk", k=6)
    index = living(sae, corpus)
    iv = ms.steering.feature_steering(sae, index, corpus, mode="clamp")
    acts = ms.capture(model, [PROMPTS[0]], [SITE], progress=False, drop_bos=False)[SITE].values.double()
    with torch.no_grad(), ms.steer(model, iv, record=True) as session:
        model(torch.tensor([PROMPTS[0]]))
    (noted,) = session.readings[0]["activation"]
    torch.testing.assert_close(noted, encode(sae, acts)[..., index], rtol=1e-5, atol=1e-5)


def test_a_threshold_stands_for_the_largest_of_topk(corpus):
    """Cheap and an approximation: where it fires is right for most tokens, the value is right where both fire."""
    sae = autoencoder("topk", k=6)
    index = living(sae, corpus)
    iv = ms.steering.feature_steering(sae, index, corpus, mode="clamp", topk="threshold")
    assert iv.adapter.encoder.shape == (1, toys.D_MODEL)
    exact, read = encode(sae, corpus)[:, index], iv.adapter.activation(corpus)
    assert ((exact > 0) == (read > 0)).double().mean() > 0.7
    both = (exact > 0) & (read > 0)
    assert both.sum() > 5
    torch.testing.assert_close(read[both], exact[both], rtol=1e-10, atol=1e-10)


def test_a_file_carries_all_it_needs(model, corpus, tmp_path):
    sae = autoencoder("topk", k=6)
    iv = ms.steering.feature_steering(sae, living(sae, corpus), corpus, mode="clamp", scope="generated")
    loaded = ms.load_steering(ms.save_steering(iv, tmp_path / "f.safetensors", model), model)
    (again,) = loaded.interventions
    assert again.adapter.sae == sae_fingerprint(sae) != sae_fingerprint(autoencoder("topk", k=6, seed=1))
    assert again.adapter.f_max == iv.adapter.f_max
    assert str(again.scope) == str(iv.scope)
    assert torch.equal(again.adapter.activation(corpus), iv.adapter.activation(corpus))


def test_f_max_is_the_largest_whatever_the_chunks(corpus):
    sae = autoencoder(dtype="float32")
    whole = encode(sae, corpus.float()).amax(0)
    found = feature_max(sae, list(corpus.float().split(7)), [3, 0])
    assert found == {3: pytest.approx(float(whole[3])), 0: pytest.approx(float(whole[0]))}


class Odd(ReadSAE):
    """Squares what it reads: no kind that is known."""

    def encode(self, x):
        return super().encode(x).square()


def test_refusals(corpus):
    sae = autoencoder()
    with pytest.raises(ConfigError, match="no feature 24"):
        ms.steering.feature_steering(sae, D_SAE, corpus)
    with pytest.raises(ConfigError, match="no corpus"):
        ms.steering.feature_steering(sae, 0)
    with pytest.raises(ConfigError, match="records no site"):
        ms.steering.feature_steering(autoencoder(metadata={}), 0, corpus)
    with pytest.raises(ConfigError, match="normalises its input"):
        ms.steering.feature_steering(autoencoder(normalize_activations="layer_norm"), 0, corpus)
    elsewhere = SimpleNamespace(site=ms.Site(0, "resid_pre"))
    with pytest.raises(ConfigError, match=r"are those of resid_pre@0, the SAE reads resid_post@\d"):
        ms.steering.feature_steering(sae, 0, elsewhere)
    for encoded in (encode, encode_sparse):
        with pytest.raises(ShapeError, match=r"activations \(3, 7\) for an SAE that reads d_in"):
            encoded(sae, torch.zeros(3, 7))
    odd = Odd(sae.cfg, dict(sae.named_parameters()))
    with pytest.raises(ConfigError, match="differs from the SAE's own"):
        ms.steering.feature_steering(odd, living(sae, corpus), corpus)
    dead = autoencoder()
    dead.b_enc[4] = -1e6
    with pytest.raises(DataError, match="fires on none"):
        ms.steering.feature_steering(dead, 4, corpus)
    adapter = ms.steering.feature_steering(sae, 0, f_max=1.0).adapter
    with pytest.raises(ShapeError, match="has width 32"):
        adapter.activation(torch.zeros(2, 5))
    with pytest.raises(ShapeError, match="encoder"):
        ms.adapters.Feature(torch.ones(4), torch.zeros(2, 4), torch.zeros(2), f_max=1.0)
    with pytest.raises(ConfigError, match="mode='raise'"):
        ms.adapters.Feature(torch.ones(4), torch.zeros(1, 4), torch.zeros(1), f_max=1.0, mode="raise")
