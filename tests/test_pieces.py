"""One's own pieces compose: what one room gives, the next one takes, as it is."""

import numpy as np
import pytest
import torch
import toys
from steering_toys import run

import mechsteer as ms
from mechsteer import bases, directions, features, topology, training
from mechsteer.attribution import metrics
from mechsteer.bases import as_basis, as_sae
from mechsteer.features.streams import as_batches, origin_of, width_of
from mechsteer.runtime.drawing import as_generator
from mechsteer.runtime.scope_words import as_scope

S = ms.TokenScope
PROMPTS = toys.prompts(5, 8, 6, 7)
HOOK = "blocks.1.hook_resid_post"
SITE = ms.Site(1, "resid_post")


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


@pytest.fixture(scope="module")
def acts(model):
    return ms.capture(model, PROMPTS, [SITE, "attn_out@2"], progress=False)


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    return ms.capture(model, PROMPTS * 10, HOOK, path=tmp_path_factory.mktemp("store"), progress=False)


class Sae(torch.nn.Module):
    """What is asked of an autoencoder, and what was saved with it."""

    def __init__(self):
        super().__init__()
        self.W_dec = torch.nn.Parameter(torch.randn(5, toys.D_MODEL, generator=torch.Generator().manual_seed(0)))
        metadata = {"site": HOOK, "model_fingerprint": "f" * 24}
        self.cfg = type("Cfg", (), {"d_in": toys.D_MODEL, "d_sae": 5, "metadata": metadata})()
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def encode(self, x):
        return (x @ self.W_dec.T).relu()

    def decode(self, f):
        return f @ self.W_dec


# -- vectors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda v: v.numpy(),
        lambda v: v.double().numpy(),
        lambda v: v[None].numpy(),
        lambda v: v.tolist(),
        lambda v: directions.Direction(v),
        lambda v: directions.Direction(v.numpy()),
    ],
)
def test_a_static_adapter_of_whatever_holds_a_vector(make, model):
    v = toys.vector(3)
    adapter = ms.adapters.Static(make(v))
    assert adapter.vector.shape == v.shape
    torch.testing.assert_close(
        run(model, ms.Intervention(adapter, 1)), run(model, ms.Intervention(ms.adapters.Static(v), 1))
    )


def test_a_probe_steers(model, acts):
    x = acts[SITE].flat().double().numpy()
    y = np.arange(len(x)) % 2
    probe = ms.probes.LinearProbe().fit(x + 0.1 * y[:, None], y)
    vector = ms.adapters.Static(probe.direction_).vector.detach().numpy()
    assert np.array_equal(vector, probe.direction_)


# -- sites, scopes, numbers --------------------------------------------------------------------------------------


SAME = [SITE, 1, 0.34, HOOK, "resid_post@1", np.int64(1)]


@pytest.mark.parametrize("site", SAME)
def test_a_site_is_taken_in_every_form_everywhere(site, model, acts, store):
    assert list(ms.capture(model, PROMPTS, site, progress=False)) == [SITE]
    assert list(ms.capture(model, PROMPTS, [site], progress=False)) == [SITE]
    assert acts[site] is acts[SITE]
    assert site in acts
    assert store[site].site == SITE
    assert site in store
    static = ms.adapters.Static(toys.vector(1))
    iv = ms.Intervention(static, site, read=[site, site]).at(model)
    assert (iv.site, iv.reads) == (SITE, (SITE, SITE))
    assert ms.Intervention(static, 2, read=[site]).at(model).read == SITE
    observation = ms.Observation(Watches(), site).at(model)
    assert observation.site == SITE
    at = ms.deltas(model, ms.Intervention(static, 1), PROMPTS)
    assert at.at(site).site == SITE
    basis = bases.from_directions(torch.eye(toys.D_MODEL))
    assert ms.attribution.attribute(at, basis, site=site, nulls=0).site == SITE
    found = directions.extract(model, [("a b", "c d"), ("e f", "g h")], site)
    assert ms.Site.from_dict(found.provenance["site"]) == SITE
    assert bases.singular(model, "q", site=site).labels == bases.singular(model, ["q"], site=SITE).labels
    assert ms.steering.bias_only(model, site).interventions[0].site == SITE
    made = ms.steering.presets.untrained(model, "static", site)
    assert made.at(model).site == SITE
    assert ms.steering.presets.width(model, site) == toys.D_MODEL


class Watches(ms.Observer):
    def observe(self, acts, state, ctx):
        return None


@pytest.mark.parametrize("site", [1, HOOK])
def test_effects_and_paths_take_sites(site, model):
    iv = ms.Steering([ms.Intervention(ms.adapters.Static(toys.vector(i)), i) for i in (0, 1)])
    basis = bases.from_directions(torch.eye(toys.D_MODEL)[:4])
    metric = metrics.log_odds(5, 9)
    few = {"nulls": 1, "nulls_run": 1, "n_random": 1, "n_bootstrap": 10}
    found = ms.attribute_effect(model, iv, PROMPTS, basis, metric, site=site, k=1, **few)
    assert found.site == SITE


def test_a_hook_says_the_same_point_on_both_classes():
    for kind in toys.KINDS_HERE:
        model = toys.shared("llama", kind)
        for site in ms.sites.list_sites(model):
            hook = site.resolve(model)
            if hook.endswith(("hook_normalized", "mlp.hook_pre")):
                with pytest.raises(ms.errors.UnknownSiteError, match="stands for several points"):
                    ms.sites.as_site(hook)
            else:
                assert ms.sites.as_site(hook).resolve(model) == hook
            assert ms.sites.as_site(str(site)) == site


@pytest.mark.parametrize("word", ["all", "prompt", "generated", "last_prompt"])
def test_scopes_by_word(word, model):
    scope = getattr(S, word)()
    assert as_scope(word) == scope == as_scope(scope)
    static = ms.adapters.Static(toys.vector(1))
    assert ms.Intervention(static, 1, scope=word).scope == scope
    assert ms.Observation(Watches(), 1, word).scope == scope
    assert ms.steering.bias_only(model, scope=word).interventions[0].scope == scope
    assert ms.steering.presets.untrained(model, "static", 1, scope=word).scope == scope


def test_a_seed_is_a_generator(model, store):
    def generator():
        return torch.Generator().manual_seed(7)

    options = {"max_new_tokens": 6, "temperature": 1.0}
    drawn = ms.generate(model, PROMPTS, seed=7, **options).tokens
    assert drawn == ms.generate(model, PROMPTS, generator=generator(), **options).tokens
    assert drawn != ms.generate(model, PROMPTS, seed=8, **options).tokens
    like = toys.vector(1)
    one, other = directions.random_direction(like, seed=7), directions.random_direction(like, generator())
    assert torch.equal(one.vector, other.vector)
    rows = [torch.cat(list(store[1].flat_batches(16, **how))) for how in ({"seed": 7}, {"generator": generator()})]
    assert torch.equal(*rows)
    assert as_generator(None, None) is None


# -- autoencoders ------------------------------------------------------------------------------------------------


def holders():
    sae = Sae()
    trained = features.sae.TrainedSAE(sae, {})
    return {"itself": sae, "trained": trained, "basis": bases.from_sae(sae)}


@pytest.mark.parametrize("kind", ["itself", "trained", "basis"])
def test_one_autoencoder_everywhere(kind, model, acts):
    held = holders()[kind]
    sae, x = as_sae(held), acts[1].flat()
    direction = directions.from_sae(held, 3)
    assert torch.equal(direction.vector, sae.W_dec[3])
    assert direction.provenance["site"] == SITE.to_dict()
    assert direction.provenance["model_fingerprint"] == "f" * 24
    assert torch.equal(bases.from_sae(held).directions, as_basis(held).directions)
    assert torch.equal(features.sae.encode(held, x), features.sae.encode(sae, x))
    assert torch.equal(features.sae.decoder_rows(held), sae.W_dec)
    assert features.sae.evaluate_sae(held, acts[1])["n_tokens"] == len(x)
    assert torch.equal(features.sae.splice_fn(held)(x), x)
    deltas = ms.deltas(model, ms.Intervention(ms.adapters.Static(toys.vector(1)), 1), PROMPTS)
    assert ms.attribution.attribute_encoder(deltas, held, nulls=0).site == SITE


def test_loss_recovered_takes_the_autoencoder(model):
    sae = Sae()
    by_function = features.recovered.loss_recovered(model, SITE, features.sae.splice_fn(sae, error_term=False), PROMPTS)
    for held in holders().values():
        assert features.recovered.loss_recovered(model, 1, held, PROMPTS) == by_function


def test_activations_are_a_stream(acts, store):
    flat = acts[1].flat()
    for source in (acts[1], flat, flat.numpy(), list(flat.split(3)), lambda: iter(flat.split(3))):
        batches = as_batches(source)
        assert torch.equal(torch.cat(list(batches() if callable(batches) else batches)), flat)
        assert width_of(batches) == toys.D_MODEL
    stored = as_batches(store[1])
    assert torch.equal(torch.cat(list(stored())), torch.cat(list(store[1].flat_batches())))
    assert torch.equal(torch.cat(list(stored())), torch.cat(list(stored())))  # again and again
    assert origin_of(store[1]) == {"site": "resid_post@1", "model_fingerprint": store.fingerprint}
    assert origin_of(acts[1]) == {"site": "resid_post@1"}
    assert origin_of([flat]) == {}


# -- measures ----------------------------------------------------------------------------------------------------


def test_log_odds_of_words():
    tokenizer = toys.sentencepiece()
    happy, two = (tokenizer.convert_tokens_to_ids(t) for t in ("▁happy", "▁two"))
    expected = metrics.log_odds(happy, [two])
    assert metrics.log_odds(" happy", " two", tokenizer) == expected
    assert metrics.log_odds([" happy"], [two], type("Model", (), {"tokenizer": tokenizer})()) == expected
    assert metrics.log_odds("happy", " two", tokenizer) != expected  # the space is part of the word


def test_trajectories_of_whatever_holds_them(acts, store):
    of_site, rows = acts[1], [acts[1].row(i) for i in range(len(PROMPTS))]
    table = topology.trace_frame(rows)
    for source in (of_site, dict(enumerate(rows)), [r.numpy() for r in rows]):
        assert topology.trace_frame(source).equals(table)
    assert topology.trace_frame(rows[0]).equals(table[:1])
    assert len(topology.trace_frame(store[1])) == 10 * len(PROMPTS)
    assert len(topology.trace_frame(torch.randn(3, 6, 4))) == 3
    named = ms.capture(toys.shared("llama"), PROMPTS, 1, prompt_ids=["a", "b", "c", "d"], progress=False)
    assert topology.trace_frame(named[1])["trace"].tolist() == ["a", "b", "c", "d"]
    twice = ms.capture(toys.shared("llama"), PROMPTS, 1, prompt_ids=["a", "a", "c", "d"], progress=False)
    assert topology.trace_frame(twice[1])["trace"].tolist() == [0, 1, 2, 3]  # nothing is lost


def test_several_interventions_are_calibrated_as_one(model):
    one, two = (ms.Intervention(ms.adapters.Static(toys.vector(i)), i) for i in (0, 1))
    options = {"max_new_tokens": 3, "target_kl": 0.05}
    found = ms.calibrate(model, [one, two], PROMPTS, **options)
    assert isinstance(found, ms.Steering)
    assert found.coeff == ms.calibrate(model, ms.Steering([one, two]), PROMPTS, **options).coeff
    assert isinstance(ms.calibrate(model, one, PROMPTS, **options), ms.Intervention)
    assert ms.Steering(one).interventions == (one,)


def test_a_model_stands_for_its_tokenizer(model):
    assert features.groups_for(model) == features.groups_for(model.tokenizer)


def test_pairs_are_samples(model):
    pairs = [("ab", "c"), ("de", "f")]
    how = training.FitConfig(epochs=1)
    start = ms.Intervention(ms.adapters.Static(torch.zeros(toys.D_MODEL)), HOOK)
    losses = [
        training.fit(model, start, given, how, progress=False).history[-1].train
        for given in (pairs, [training.Sample(*pair) for pair in pairs])
    ]
    assert losses[0] == losses[1]


def test_rooms_are_where_one_looks():
    assert ms.topology.StreamingH0 is ms.spanning.StreamingH0
    assert ms.features.sae.train_sae
    assert {"sae", "recovered"} <= set(dir(ms.features))
    assert ms.tasks
    assert ms.steering.read_header


def test_help_names_everything_public():
    named = ms.__doc__.split()
    missing = [name for name in dir(ms) if name != "__version__" and not any(w.strip(",;") == name for w in named)]
    assert missing == []
