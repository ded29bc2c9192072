"""The kinds that are to come, as toys registered from outside the package, through every room of steering."""

import dataclasses

import pytest
import torch
import toy_adapters
import toys
from steering_toys import TOKENS, Copy, noisy, run, static

import mechsteer as ms
from mechsteer.adapters import ADAPTERS, Adapter, Static, name_of, named, register
from mechsteer.attribution import metrics
from mechsteer.errors import ConfigError, ScopeError, UnknownSiteError
from mechsteer.models import backend_of
from mechsteer.steering.presets import untrained, width

S = ms.TokenScope
PROMPTS = toys.prompts(5, 8, 6)
KINDS = {  # name -> where it reads and writes
    "toy_prompt_mlp": {"site": ms.Site(1)},
    "toy_gated_gru": {"site": ms.Site(1, "mlp_out"), "read": ms.Site(0)},
    "toy_low_rank": {"site": ms.Site(1, "down_out"), "read": ms.Site(1, "down_in")},
    "static": {"site": ms.Site(1)},
}
kinds = pytest.mark.parametrize("name", KINDS)
models = pytest.mark.parametrize("kind", ["bridge-llama", "compat-gpt2", "hooked-qwen3"])


def made(model, name, **options):
    iv = untrained(model, name, **KINDS[name], **options)
    return dataclasses.replace(iv, adapter=noisy(iv.adapter, 0.5))


@kinds
@models
def test_generated_the_same_cached_uncached_alone_and_saved(model_of, kind, name, tmp_path):
    model = model_of(kind)
    iv = made(model, name, scope=S.generated(include_last_prompt=True)).with_coeff(2.0)

    def tokens(prompts, ivs, **options):
        return ms.generate(model, prompts, ivs, max_new_tokens=4, stop_tokens=(), **options).tokens

    together = tokens(PROMPTS, iv)
    assert together != tokens(PROMPTS, ())
    assert tokens(PROMPTS, iv, use_cache=False) == together
    assert [tokens([p], [iv, ms.Observation(toy_adapters.Drift(), ms.Site(2))])[0] for p in PROMPTS] == together
    saved = [iv, ms.Observation(toy_adapters.Drift(), ms.Site(2)), ms.Observation(probe(), PROBED)]
    path = ms.save_steering(saved, tmp_path / "steering.safetensors", model)
    loaded = ms.load_steering(path, model)
    assert type(loaded.interventions[0].adapter) is ADAPTERS[name]
    assert loaded.interventions[0].reads == iv.at(model).reads
    with torch.no_grad(), ms.steer(model, saved, prompt_lengths=[5, 5], record=True) as before:
        logits = model(TOKENS)
    with torch.no_grad(), ms.steer(model, loaded, prompt_lengths=[5, 5], record=True) as after:
        assert torch.equal(model(TOKENS), logits)
    assert [sorted(noted) for noted in after.readings[1:]] == [["drift"], ["probability"]]
    for noted, again in zip(before.readings, after.readings, strict=True):
        assert all(equal_readings(noted[key], again[key]) for key in noted | again)


PROBED = [ms.Site(0), ms.Site(1, "mlp_out")]


def probe():
    return toy_adapters.Probe(32, 32)


def equal_readings(ones, others):
    """Readings, whose NaN outside the scope are no difference."""
    return all(torch.equal(a.nan_to_num(7.5), b.nan_to_num(7.5)) for a, b in zip(ones, others, strict=True))


@kinds
@models
def test_its_deltas_and_its_effect_are_attributed(model_of, kind, name):
    model = model_of(kind)
    iv = made(model, name)
    found = ms.deltas(model, [iv, ms.Observation(toy_adapters.Drift(), ms.Site(2))], PROMPTS)
    lengths = [len(p) for p in PROMPTS]
    for i, prompt in enumerate(PROMPTS):
        with torch.no_grad(), ms.steer(model, iv, record=True) as session:
            model(torch.tensor([prompt]))
        torch.testing.assert_close(found.values[i, : lengths[i]], session.recorded[0][0][0], rtol=0, atol=5e-5)
    odds = metrics.log_odds(10, [20, 21])
    basis = ms.bases.from_directions(
        torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0]
    )
    effect = ms.attribute_effect(model, iv, PROMPTS, basis, odds, k=32, nulls=0, nulls_run=0)
    for i, prompt in enumerate(PROMPTS):
        log_p = run(model, iv, torch.tensor([prompt]))[0, -1].double().log_softmax(-1)
        assert float(effect.steered[i]) == pytest.approx(float(log_p[10] - log_p[[20, 21]].logsumexp(0)), abs=1e-4)
    if not effect.nothing_to_attribute:  # all directions together carry the whole of it
        assert effect.check["sufficiency"].tolist() == pytest.approx([1.0], abs=1e-3)


@models
@pytest.mark.parametrize("name", ["q", "down"])
def test_a_weight_space_adapter_folds_and_unfolds(model_of, kind, name):
    """W + c · B A, at q (whose heads are rotated afterwards) and at down."""
    model = toys.load(
        *{"bridge-llama": ("llama",), "compat-gpt2": ("gpt2", "compatibility"), "hooked-qwen3": ("qwen3", "hooked")}[
            kind
        ]
    )
    read, site = ms.Site(1, f"{name}_in"), ms.Site(1, f"{name}_out")
    iv = untrained(model, "toy_low_rank", site, read=read, rank=3)
    noisy(iv.adapter, 0.5)
    steering = ms.Steering([iv.with_coeff(1.5), dataclasses.replace(iv, coeff=-0.5), static(2, 2)], coeff=0.8)
    weight = backend_of(model).weights.map_weight(1, name).clone()
    before, hooked, fingerprint = run(model), run(model, steering), ms.model_fingerprint(model)
    ms.fold(model, steering)
    change = backend_of(model).weights.map_weight(1, name) - weight
    torch.testing.assert_close(change, 0.8 * (iv.adapter.b @ iv.adapter.a).detach(), rtol=0, atol=1e-5)
    folded = run(model)
    texts = ms.generate(model, PROMPTS, max_new_tokens=4, stop_tokens=()).tokens
    ms.unfold(model)
    assert (hooked - before).abs().max() > 1e-2
    torch.testing.assert_close(folded.log_softmax(-1), hooked.log_softmax(-1), rtol=0, atol=5e-5)
    assert torch.equal(run(model), before)
    assert ms.model_fingerprint(model) == fingerprint
    assert ms.generate(model, PROMPTS, steering, max_new_tokens=4, stop_tokens=()).tokens == texts


def test_what_is_neither_a_bias_nor_a_matrix_is_not_folded():
    model = toys.load("llama")
    low_rank = untrained(model, "toy_low_rank", **KINDS["toy_low_rank"])
    wide = dataclasses.replace(low_rank, adapter=toy_adapters.LowRank(48, 31))
    for iv, message in (
        (untrained(model, "toy_gated_gru", ms.Site(1)), "the adapter GatedGru"),
        (dataclasses.replace(low_rank, read=None, site=ms.Site(1)), "the adapter LowRank"),  # reads where it writes
        (dataclasses.replace(low_rank, read=ms.Site(0, "down_in")), "the adapter LowRank"),  # another layer's input
        (dataclasses.replace(low_rank, scope=S.generated()), "the scope"),
        (wide, r"the weight change is \(31, 48\), the map down is \(32, 48\)"),
        (ms.Observation(toy_adapters.Drift(), ms.Site(1)), "an observation"),
    ):
        with pytest.raises(ConfigError, match=message):
            ms.fold(model, [static(), iv])
        with pytest.raises(ConfigError, match="nothing is folded"):
            ms.unfold(model)


def test_another_adapter_with_a_constant_delta_folds_and_is_exported(tmp_path):
    class Unit(Static):
        """c · v / |v|"""

        linear_in_coeff = True

        def delta(self, acts, state, coeff, ctx):
            return self.as_bias(coeff).to(acts.dtype).expand_as(acts), None

        def as_bias(self, coeff):
            return coeff * self.vector / self.vector.norm()

    model = toys.load("llama")
    iv = ms.Intervention(Unit(toys.vector()), ms.Site(1), coeff=2.0)
    hooked = run(model, iv)
    ms.fold(model, iv)
    torch.testing.assert_close(run(model).log_softmax(-1), hooked.log_softmax(-1), rtol=0, atol=5e-5)
    ms.unfold(model)
    assert ms.export_gguf(iv, tmp_path / "unit.gguf").exists()
    for other, message in (
        (untrained(model, "toy_gated_gru", ms.Site(1)), "the adapter GatedGru"),
        (ms.Observation(toy_adapters.Drift(), ms.Site(1)), "an observation"),
    ):
        with pytest.raises(ConfigError, match=message):
            ms.export_gguf(other, tmp_path / "none.gguf")


@models
def test_untrained_adapters_fit_what_they_read_and_write(model_of, kind):
    model = model_of(kind)
    for point in (
        "resid_pre",
        "resid_post",
        "attn_out",
        "mlp_out",
        "mlp_post",
        "z",
        "q",
        "k",
        "v",
        "q_out",
        "o_in",
        "o_out",
        "up_out",
        "down_in",
        "down_out",
    ):
        site = ms.Site(1, point)
        with torch.no_grad():
            acts = model.run_with_cache(TOKENS)[1][site.resolve(model)]
        assert width(model, site) == acts.flatten(2).shape[-1], point
    iv = untrained(model, "toy_gated_gru", ms.Site(1, "z"), read=ms.Site(0, "mlp_post"), scope=S.prompt(), d_hidden=3)
    assert (iv.site, iv.reads, iv.scope) == (ms.Site(1, "z"), (ms.Site(0, "mlp_post"),), S.prompt())
    assert iv.adapter.cell.hidden_size == 3
    assert torch.equal(run(model, iv), run(model))
    assert untrained(model, "static", ms.Site(0.5)).adapter.vector.shape == (32,)
    with pytest.raises(ConfigError, match=r"(?s)no adapter 'toy_gru'.*toy_gated_gru"):
        untrained(model, "toy_gru", ms.Site(1))
    with pytest.raises(ConfigError, match=r"no options \['rank'\]"):
        untrained(model, "static", ms.Site(1), rank=2)


# -- registering -------------------------------------------------------------------------------------------------


def test_names():
    assert name_of(Static) == "static"
    assert name_of(Copy) is None
    assert named("toy_low_rank") is toy_adapters.LowRank
    register("toy_low_rank", toy_adapters.LowRank)  # again: nothing happens
    with pytest.raises(ConfigError, match=r"'static' is mechsteer.adapters.static.Static's"):
        register("static", toy_adapters.LowRank)
    with pytest.raises(ConfigError, match="LowRank is registered as 'toy_low_rank'"):
        register("another", toy_adapters.LowRank)
    with pytest.raises(ConfigError, match="neither an adapter nor an observer"):
        register("linear", torch.nn.Linear)
    with pytest.raises(ConfigError, match="Copy cannot be made from 3 numbers read and 4 written"):
        Copy.fresh(3, 4)


def test_half_made_classes_are_refused():
    with pytest.raises(ConfigError, match=r"(?s)NoTags does not declare \['linear_in_coeff'\].*linear_in_coeff = True"):

        class NoTags(Copy):
            linear_in_coeff = None

    with pytest.raises(ConfigError, match=r"NeverSaid does not declare \['linear_in_coeff', 'identity_at_init'\]"):

        class NeverSaid(Adapter):
            delta, config, blank = Copy.delta, Copy.config, Copy.blank

    class NoConfig(Adapter):
        linear_in_coeff = identity_at_init = True

        def delta(self, acts, state, coeff, ctx):
            return acts, None

    class NoBlank(ms.Observer):
        def observe(self, acts, state, ctx):
            return None

    before = dict(ADAPTERS)
    with pytest.raises(ConfigError, match=r"NoConfig does not define"):
        ADAPTERS["no_config"] = NoConfig
    with pytest.raises(ConfigError, match="is not a class of Adapters"):
        ADAPTERS["no_adapter"] = torch.nn.Linear
    with pytest.raises(ConfigError, match=r"NoConfig does not define \['blank', 'config'\]"):
        register("no_config", NoConfig)
    with pytest.raises(ConfigError, match=r"NoBlank does not define \['config', 'blank'\]"):
        register("no_blank", NoBlank)
    with pytest.raises(ConfigError, match="'' is no name"):
        register("", Copy)
    assert before == ADAPTERS


# -- dataclasses -------------------------------------------------------------------------------------------------


def test_interventions_and_steerings_are_plain_dataclasses():
    iv = static()
    assert dataclasses.replace(iv, coeff=2).coeff == 2.0
    assert dataclasses.replace(iv, scope=S.prompt()) == ms.Intervention(iv.adapter, iv.site, scope=S.prompt())
    assert ms.Intervention(iv.adapter, iv.site, scope=None).scope == S.all()
    assert ms.Steering(iv).interventions == (iv,)
    st = ms.Steering([iv, iv], coeff=0.5)
    assert dataclasses.replace(st, coeff=2) == st.with_coeff(2.0)
    assert dataclasses.replace(st, interventions=[iv]) == ms.Steering(iv, 0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        iv.coeff = 3.0
    with pytest.raises(ScopeError, match=r"(?s)scope is 'al'.*did you mean 'all'"):
        ms.Intervention(iv.adapter, iv.site, scope="al")
    with pytest.raises(
        UnknownSiteError, match=r"(?s)'resid_post' is no hook.*a point needs its layer: Site\(3, 'resid_post'"
    ):
        ms.Intervention(iv.adapter, iv.site, read="resid_post")
    with pytest.raises(UnknownSiteError, match="no site among these"):
        ms.Intervention(iv.adapter, iv.site, read=[])
    with pytest.raises(ConfigError, match="coeff is inf"):
        dataclasses.replace(iv, coeff=float("inf"))
