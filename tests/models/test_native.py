"""Bridges of `boot_native`: no Hugging Face module in them, blocks that return tuples, no KV cache."""

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.attribution import metrics
from mechsteer.errors import ModelMismatchError, UnknownSiteError
from mechsteer.models import backend_of, model_fingerprint, twin_of
from mechsteer.runtime.batches import Sample, make_batches
from mechsteer.runtime.reach import n_untouched_blocks
from mechsteer.runtime.restart import Start, logits_from, start_from
from mechsteer.training import fit

PROMPTS = toys.prompts(9, 4, 7)
SITE = ms.Site(1)
VARIANTS = {
    "rotary": {},
    "gpt2-like": {
        **{"act_fn": "gelu", "gated_mlp": False, "normalization_type": "LN", "final_rms": False},
        "positional_embedding_type": "standard",
    },
    "grouped": {"n_key_value_heads": 2},
    "no norm": {"normalization_type": None, "final_rms": False, "gated_mlp": False, "scale": 5.0},
    "attention only": {"attn_only": True},
}


@pytest.fixture(scope="module", params=VARIANTS)
def model(request):
    return toys.native(**VARIANTS[request.param])


@pytest.fixture(scope="module")
def rotary():
    return toys.native()


def static(**settings) -> ms.Intervention:
    return ms.Intervention(ms.adapters.Static(toys.vector()), SITE, **settings)


def plain(model, row, *, n_prompt: int = 0, vector: torch.Tensor | None = None) -> torch.Tensor:
    """Logits [pos d_vocab] of the plain module inside, a vector added behind block 1 from `n_prompt` on."""

    def add(module, args, output):
        change = torch.zeros_like(output[0])
        change[:, n_prompt:] = vector
        return (output[0] + change, *output[1:])

    handles = [] if vector is None else [model.original_model.layers[SITE.layer].register_forward_hook(add)]
    with torch.no_grad():
        logits = model.original_model(torch.tensor([row]))[0]
    for handle in handles:
        handle.remove()
    return logits


def test_is_taken_as_it_is(model):
    assert ms.load_model(model) is model
    assert backend_of(model).kind == "bridge"
    assert not any(p.requires_grad for p in backend_of(model).weights.named_weights().values())
    assert twin_of(model) is None


def test_steered_logits_are_those_of_the_plain_module(model):
    for row in PROMPTS:
        with torch.no_grad(), ms.steer(model, static(scope=ms.TokenScope.from_position(2))):
            steered = model(torch.tensor([row]))[0]
        expected = plain(model, row, n_prompt=2, vector=toys.vector())
        torch.testing.assert_close(steered, expected, rtol=1e-4, atol=1e-4)
        assert (steered - plain(model, row)).abs().max() > 0.05
    assert toys.hooks_left(model) == 0


def test_captured_residuals_are_those_of_the_plain_module(model):
    seen = []
    handle = model.original_model.layers[1].register_forward_hook(lambda module, args, output: seen.append(output[0]))
    for row in PROMPTS:
        plain(model, row)
    handle.remove()
    acts = ms.capture(model, PROMPTS, [SITE, ms.Site(2, "attn_out")], progress=False)
    # rows of a batch and rows alone, in float32: rounding is as large as the largest entries make it
    size = max(float(expected.abs().max()) for expected in seen)
    for i, (row, expected) in enumerate(zip(PROMPTS, seen, strict=True)):
        torch.testing.assert_close(acts[SITE].values[i, : len(row)], expected[0], rtol=0, atol=1e-5 * size)


def test_generation_with_and_without_a_cache_is_greedy_decoding(model):
    vector = toys.vector()
    steered = static(scope=ms.TokenScope.generated(include_last_prompt=True))
    for iv, added in (((), None), (steered, vector)):
        outs = [
            ms.generate(model, PROMPTS, iv, max_new_tokens=4, stop_tokens=(), use_cache=use) for use in (True, False)
        ]
        for row, tokens in zip(PROMPTS, outs[0].tokens, strict=True):
            grown = list(row)
            for _ in range(4):
                grown.append(int(plain(model, grown, n_prompt=len(row) - 1, vector=added)[-1].argmax()))
            assert tokens == grown[len(row) :]
        assert outs[0].tokens == outs[1].tokens


def test_its_own_generate_is_steered(rotary):
    row, iv = PROMPTS[0], static()
    with ms.steer(rotary, iv):
        ids = rotary.generate(
            torch.tensor([row]),
            max_new_tokens=4,
            do_sample=False,
            verbose=False,
            stop_at_eos=False,
            return_type="tokens",
        )
    expected = ms.generate(rotary, [row], iv, max_new_tokens=4, stop_tokens=()).tokens[0]
    assert ids[0, len(row) :].tolist() == expected


def test_the_fingerprint_tells_native_models_apart(tmp_path):
    changes = ({"seed": 1}, {"attn_scores_soft_cap": 5.0}, {"rotary_base": 500}, {"output_logits_soft_cap": 9.0})
    models = [toys.native(), *(toys.native(**change) for change in changes)]
    prints = [model_fingerprint(m) for m in models]
    assert len({*prints}) == len(models)
    assert model_fingerprint(toys.native()) == prints[0]
    ms.save_steering(static(), tmp_path / "steering.safetensors", models[0])
    loaded = ms.load_steering(tmp_path / "steering.safetensors", models[0])
    assert torch.equal(loaded.interventions[0].adapter.vector, toys.vector())
    with pytest.raises(ModelMismatchError, match="fingerprint"):
        ms.load_steering(tmp_path / "steering.safetensors", models[1])


def test_effects_are_attributed(model):
    basis = ms.bases.from_directions(torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64))[0])
    odds = metrics.log_odds(10, [20, 21])
    eff = ms.attribute_effect(model, static(coeff=0.5), PROMPTS, basis, odds, k=32, nulls=0, nulls_run=0, integrated=2)
    for vector, measured in ((None, eff.base), (0.5 * toys.vector(), eff.steered)):
        log_p = torch.stack([plain(model, row, vector=vector)[-1].double().log_softmax(-1) for row in PROMPTS])
        expected = log_p[:, 10] - log_p[:, [20, 21]].logsumexp(1)
        torch.testing.assert_close(measured.double(), expected, rtol=1e-3, atol=1e-3)
    if not eff.nothing_to_attribute:
        assert eff.check.set_index("k").loc[32, "sufficiency"] == pytest.approx(1, abs=1e-2)
    assert torch.isfinite(eff.contributions).all()


def test_singular_directions_and_folding(model):
    down = ms.bases.singular(model, ("o",), layers=[1], side="left")
    weight = model.original_model.layers[1].attn.o.weight
    torch.testing.assert_close(down.values, torch.linalg.svdvals(weight)[: len(down)])
    reading = ms.bases.singular(model, ("q",), layers=[1], side="right")
    scale = getattr(model.original_model.layers[1].ln1, "weight", torch.ones(()))
    q = model.original_model.layers[1].attn.q.weight * scale
    torch.testing.assert_close(reading.values, torch.linalg.svdvals(q)[: len(reading)])
    resid, ln = torch.randn(1, 5, 32), model.original_model.layers[1].ln1
    normalized = backend_of(model).weights.normalize(resid) * scale + getattr(ln, "bias", torch.zeros(()))
    torch.testing.assert_close(normalized, ln(resid))
    iv, before = static(), model_fingerprint(model)
    try:
        ms.fold(model, iv)
    except UnknownSiteError:  # attention only: no map writes at resid_post
        assert model.cfg.attn_only
        return
    folded = plain(model, PROMPTS[0])
    ms.unfold(model)
    assert model_fingerprint(model) == before
    expected = plain(model, PROMPTS[0], vector=toys.vector())
    assert (folded - expected).norm() < 1e-4 * expected.norm()


def test_a_step_over_padded_rows_restarts_with_finite_gradients(model):
    """The softmax of a padding query is NaN and its gradient 0; a prefix is asked to be kept, and there is no cache to keep it in."""
    batch = make_batches(model, [([256, 5, 9, 33, 71], [12, 40]), ([256, 81], [3, 99])], batch_size=2)[0]
    assert batch.attention_mask is not None
    at, iv = batch.predicts_target, static()
    targets, n_skipped = batch.tokens.roll(-1, 1)[at], n_untouched_blocks(model, [iv])
    assert n_skipped == 2
    losses = []
    for start in (Start(), start_from(model, batch, n_skipped), start_from(model, batch, n_skipped, n_prefix=2)):
        with ms.steer(model, iv):
            logits = logits_from(model, batch, start, at, all_positions=True)
        losses.append(torch.nn.functional.cross_entropy(logits, targets))
    gradients = [torch.autograd.grad(loss, list(iv.adapter.parameters()))[0] for loss in losses]
    assert gradients[0].norm() > 1e-4
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert torch.equal(loss, losses[0])
        assert torch.equal(gradient, gradients[0])
    alone = [
        plain(model, row, vector=toys.vector())[n - 1 : -1]
        for row, n in (([256, 5, 9, 33, 71, 12, 40], 5), ([256, 81, 3, 99], 2))
    ]
    expected = torch.nn.functional.cross_entropy(torch.cat(alone), torch.tensor([12, 40, 3, 99]))
    torch.testing.assert_close(losses[0].detach(), expected, rtol=1e-4, atol=1e-4)


def test_trains(rotary):
    blank = ms.Intervention(ms.adapters.Static(torch.zeros(toys.D_MODEL)), SITE)
    result = fit(rotary, blank, [Sample(row[:3], row[3:]) for row in toys.prompts(7, 6, 8, 5)], progress=False)
    trained = result.steering.interventions[0].adapter.vector
    assert torch.isfinite(trained).all()
    assert trained.norm() > 0.01
