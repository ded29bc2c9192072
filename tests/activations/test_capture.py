"""Capture against Hugging Face's hidden states and run_with_cache, in all families and both classes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError, HookNeverFiredError, NonFiniteError, UnknownSiteError

PROMPTS = ["Tom has 3 apples.", "hi", "So 3 + 4 = 7, then we double it.", "but wait", "a", "four apples and a pear"]
CLASSES = ("bridge", "compatibility", "hooked")


@pytest.fixture(scope="module")
def load():
    return functools.cache(toys.load)


def run(model, *args, **kwargs):
    return ms.capture(model, *args, progress=False, **kwargs)


@pytest.mark.parametrize(("kind", "engine"), [("bridge", "auto"), ("bridge", "model"), ("hooked", "auto")])
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_residuals_are_hugging_faces_hidden_states(load, family, kind, engine) -> None:
    model, hf = load(family, kind), toys.hf_model(family)
    sites = [ms.Site(0, "resid_pre"), ms.Site(0, "resid_post"), ms.Site(2, "resid_pre")]
    acts = run(model, PROMPTS, sites, batch_size=4, engine=engine)
    assert acts[sites[0]].values.shape == (len(PROMPTS), int(acts.lengths.max()), toys.D_MODEL)
    for i, prompt in enumerate(PROMPTS):
        tokens = model.to_tokens(prompt)
        n = tokens.shape[1]
        hidden = hf(tokens, output_hidden_states=True).hidden_states
        assert acts.lengths[i] == n
        assert torch.equal(acts.tokens[i, :n], tokens[0])
        for site, k in zip(sites, (0, 1, 2), strict=True):
            torch.testing.assert_close(acts[site].values[i, :n], hidden[k][0], atol=5e-5, rtol=1e-5)
            assert not acts[site].values[i, n:].any()


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_every_point_is_what_run_with_cache_holds(load, family, kind) -> None:
    model = load(family, kind)
    scaled = kind == "hooked"
    points = ["attn_out", "mlp_out", "mlp_post", "z", "q", "k", "v", "q_in", "o_in", "up_out", "down_in", "resid_post"]
    sites = [ms.Site(1, p) for p in points if not (scaled and p == "q_in")]
    sites += [] if family == "neox" else [ms.Site(1, "resid_mid")]
    acts = run(model, PROMPTS[:2], sites)
    for i, prompt in enumerate(PROMPTS[:2]):
        tokens = model.to_tokens(prompt)
        _, cache = model.run_with_cache(tokens)
        for site in sites:
            theirs = cache[site.resolve(model)][0]
            torch.testing.assert_close(acts[site].values[i, : tokens.shape[1]], theirs, atol=5e-5, rtol=1e-5)
    assert acts[ms.Site(1, "q")].values.shape[2:] == (4, 8)


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_map_inputs_mean_the_same_on_both_classes(load, family) -> None:
    sites = [ms.Site(1, "q_in"), ms.Site(1, "up_in")]
    bridge, hooked = (run(load(family, kind), PROMPTS, sites) for kind in ("bridge", "hooked"))
    for site in sites:
        torch.testing.assert_close(bridge[site].values, hooked[site].values, atol=5e-5, rtol=1e-5)


def test_forward_ends_at_the_deepest_site(load) -> None:
    model = load("qwen3")
    seen = []
    handle = model.original_model.model.layers[2].register_forward_pre_hook(lambda *_: seen.append(1))
    try:
        run(model, PROMPTS, [ms.Site(1, "resid_post"), ms.Site(0, "mlp_out")], engine="model")
        assert not seen
        run(model, PROMPTS, [ms.Site(2, "resid_post")], engine="model")
        assert seen
    finally:
        handle.remove()


def test_mask_keeps_pads_and_bos_out(load) -> None:
    site = ms.Site(1)
    with_bos = run(load("llama"), ["ab", "c"], [site])
    assert with_bos.tokens.tolist() == [[256, 64, 65], [256, 66, 258]]
    assert with_bos.mask.tolist() == [[False, True, True], [False, True, False]]
    assert with_bos.lengths.tolist() == [3, 2]
    assert len(with_bos[site].flat()) == 3
    assert torch.equal(with_bos[site].row(1), with_bos[site].values[1, 1:2])
    kept = run(load("llama"), ["ab", "c"], [site], drop_bos=False)
    assert kept.mask.sum(1).tolist() == [3, 2]
    without = run(load("qwen3"), ["ab", "c"], [site])
    assert without.mask.tolist() == [[True, True], [True, False]]


def test_pooling(load) -> None:
    site = ms.Site(1)
    acts = run(load("llama"), PROMPTS, [site])[site]
    for i in range(len(PROMPTS)):
        assert torch.equal(acts.pool("last")[i], acts.values[i, acts.lengths[i] - 1])
        torch.testing.assert_close(acts.pool("mean")[i], acts.values[i, 1 : acts.lengths[i]].mean(0))
    z = run(load("llama"), PROMPTS, [ms.Site(1, "z")])[ms.Site(1, "z")]
    torch.testing.assert_close(z.pool("mean")[3], z.values[3, 1 : z.lengths[3]].mean(0))
    with pytest.raises(DataError, match=r"prompt 1 has no token but BOS"):
        run(load("llama"), ["ab", [256]], [site])[site].pool("mean")
    with pytest.raises(DataError, match="unknown pooling"):
        acts.pool("first")  # pyright: ignore[reportArgumentType]


def test_sites_are_found_by_index_and_by_ratio(load) -> None:
    acts = run(load("qwen3"), PROMPTS, [ms.Site(0.5, "resid_pre")])
    assert list(acts) == [ms.Site(1, "resid_pre")]
    assert acts[ms.Site(0.5, "resid_pre")] is acts[ms.Site(1, "resid_pre")]
    with pytest.raises(UnknownSiteError, match="resid_post@1 was not captured"):
        acts[ms.Site(1)]


def test_order_ids_and_labels_follow_the_prompts(load) -> None:
    model, site = load("qwen3"), ms.Site(1)
    ids = [f"p{i}" for i in range(len(PROMPTS))]
    acts = run(model, PROMPTS, [site], prompt_ids=ids, labels=np.arange(6) % 2 == 0, batch_size=2)
    assert acts.prompt_ids == tuple(ids)
    assert acts.labels == (True, False, True, False, True, False)
    alone = run(model, PROMPTS[3:4], [site])
    torch.testing.assert_close(acts[site].row(3), alone[site].row(0), atol=1e-5, rtol=1e-5)
    with pytest.raises(DataError, match="2 labels for 6 prompts"):
        run(model, PROMPTS, [site], labels=[1, 0])
    with pytest.raises(DataError, match="labels and prompt_ids are strings or numbers"):
        run(model, PROMPTS[:1], [site], labels=[{}])


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("engine", ["auto", "model"])
def test_steered_capture_holds_the_value_after_steering(load, kind, engine) -> None:
    model = load("llama", kind)
    v = torch.randn(toys.D_MODEL, generator=torch.Generator().manual_seed(0))
    at, later = ms.Site(1), ms.Site(2, "resid_pre")
    plain = run(model, PROMPTS, [at], engine=engine)
    scope = ms.TokenScope.last_prompt()
    iv = ms.Intervention(ms.adapters.Static(v), at, scope=scope)
    steered = run(model, PROMPTS, [at, later], interventions=[iv], engine=engine, batch_size=4)
    with ms.steer(model, iv):
        enclosed = run(model, PROMPTS, [at], engine=engine, batch_size=4)
    assert enclosed.engine == "model"
    for i, n in enumerate(plain.lengths.tolist()):
        expected = plain[at].values[i].clone()
        expected[n - 1] += v
        for acts, site in ((steered, at), (steered, later), (enclosed, at)):
            torch.testing.assert_close(acts[site].values[i], expected, atol=5e-5, rtol=1e-5)


def test_enclosing_interventions_apply_first(load) -> None:
    model, site = load("qwen3"), ms.Site(1)
    generator = torch.Generator().manual_seed(1)
    u, v = torch.randn(2, toys.D_MODEL, generator=generator)
    one, two = (ms.Intervention(ms.adapters.Static(x), s) for x, s in ((u, ms.Site(0)), (v, site)))
    together = run(model, PROMPTS, [site], interventions=ms.Steering([one, two]), engine="model")
    with ms.steer(model, one):
        nested = run(model, PROMPTS, [site], interventions=two)
    assert torch.equal(together[site].values, nested[site].values)
    base = run(model, PROMPTS, [site])
    assert torch.equal(run(model, PROMPTS, [site])[site].values, base[site].values)  # nothing stayed attached


def test_scopes_know_rows_and_prompt_lengths(load) -> None:
    model, site = load("qwen3"), ms.Site(1)
    v = torch.ones(toys.D_MODEL) * torch.arange(toys.D_MODEL)
    scope = ms.TokenScope.generated() & ms.TokenScope.rows([2])
    iv = ms.Intervention(ms.adapters.Static(v), site, scope=scope)
    plain = run(model, PROMPTS, [site], engine="model")
    steered = run(model, PROMPTS, [site], interventions=[iv], engine="model", batch_size=2, prompt_lengths=[1] * 6)
    change = steered[site].values - plain[site].values
    touched = change.abs().amax(-1) > 1e-3
    expected = torch.zeros_like(touched)
    expected[2, 1 : int(plain.lengths[2])] = True
    assert torch.equal(touched, expected)


def test_twin_and_model_agree(load) -> None:
    model = load("llama")
    model.run_with_cache(model.to_tokens("hi"))  # leaves hooks of its own behind, which must not cost the twin
    sites = [
        ms.Site(layer, p) for layer in (0, 2) for p in ("resid_pre", "attn_out", "z", "q", "mlp_out", "resid_post")
    ]
    auto, own = run(model, PROMPTS, sites), run(model, PROMPTS, sites, engine="model")
    assert (auto.engine, own.engine) == ("twin", "model")
    for site in sites:
        torch.testing.assert_close(auto[site].values, own[site].values, atol=5e-5, rtol=1e-5)


def test_a_hooked_model_runs_itself(load) -> None:
    assert run(load("llama", "hooked"), PROMPTS, [ms.Site(0)]).engine == "model"


@pytest.mark.parametrize("engine", ["auto", "model"])
def test_not_a_number_names_site_and_prompt(engine) -> None:
    hf = toys.hf_model("qwen3")
    model = ms.load_model(hf, tokenizer=toys.tokenizer())
    with torch.no_grad():
        model.original_model.get_input_embeddings().weight[90] = float("nan")
    with pytest.raises(NonFiniteError, match=r"NaN or infinity at resid_post@0 in prompt 3"):
        run(model, [[1, 2, 3], [4], [5, 6], [7, 90], [8, 9, 10]], [ms.Site(0)], batch_size=5, engine=engine)


def test_float16_overflow_is_not_stored(load) -> None:
    model, site = load("qwen3"), ms.Site(1)
    iv = ms.Intervention(ms.adapters.Static(torch.full((toys.D_MODEL,), 1e5)), site)
    with pytest.raises(NonFiniteError, match="float16 ends at 65504"):
        run(model, PROMPTS, [site], interventions=[iv], dtype=torch.float16)
    assert run(model, PROMPTS, [site], interventions=[iv], dtype=torch.bfloat16)[site].values.dtype == torch.bfloat16


def test_hooks_that_never_fire_raise(load) -> None:
    model = load("gpt2", "hooked")
    with pytest.raises(UnknownSiteError):
        run(model, PROMPTS, [ms.Site(0, "gate_out")])
    quiet = load("llama", "hooked")
    quiet.blocks[1].forward, forward = (lambda x, *_, **__: x), quiet.blocks[1].forward
    try:
        with pytest.raises(HookNeverFiredError, match=r"resid_post@1"):
            run(quiet, PROMPTS, [ms.Site(1)])
        iv = ms.Intervention(ms.adapters.Static(torch.ones(toys.D_MODEL)), ms.Site(1, "mlp_out"))
        with pytest.raises(HookNeverFiredError, match=r"intervention's hook at mlp_out@1"):
            run(quiet, PROMPTS, [ms.Site(2)], interventions=[iv])
    finally:
        quiet.blocks[1].forward = forward


def test_bad_input(load) -> None:
    model, site = load("qwen3"), ms.Site(1)
    with pytest.raises(DataError, match="prompt 300 is empty"):
        run(model, [*["a"] * 300, ""], [site])
    with pytest.raises(DataError, match="prompt 1 has 200 tokens, the model's context is 128"):
        run(model, ["a", "a" * 200], [site])
    with pytest.raises(DataError, match="no prompts"):
        run(model, [], [site])
    with pytest.raises(DataError, match="one string"):
        run(model, "abc", [site])
    with pytest.raises(ConfigError, match="no sites"):
        run(model, PROMPTS, [])
    with pytest.raises(ConfigError, match=r"not kept as torch\.int8"):
        run(model, PROMPTS, [site], dtype=torch.int8)
    with pytest.raises(ConfigError, match="unknown engine"):
        run(model, PROMPTS, [site], engine="fast")
    with pytest.raises(ConfigError, match="batch_size is 0"):
        run(model, PROMPTS, [site], batch_size=0)


def test_prompts_that_are_too_long_are_cut_where_that_is_asked_for(load):
    model, site = load("llama", "bridge"), ms.Site(1)
    long, n = "a" * 200, load("llama", "bridge").cfg.n_ctx
    with pytest.raises(DataError, match=r"prompt 1 has 201 tokens(?s:.*)truncate='right'"):
        run(model, ["hi", long], [site])
    with pytest.raises(DataError, match="prompt 300 has 201 tokens"):  # beyond the first piece that is tokenized
        run(model, ["hi"] * 300 + [long], [site])
    cut = run(model, ["hi", long], [site], truncate="right")[site]
    assert cut.lengths.tolist() == [3, n]
    torch.testing.assert_close(cut.values[1], run(model, ["a" * (n - 1)], [site])[site].values[0])
