"""Coefficients for a KL budget, checked by plain Hugging Face forwards with a plain module hook."""

from __future__ import annotations

import math

import extras
import pytest
import torch
import toys
from torch import Tensor, nn

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError, NonFiniteError
from mechsteer.models import has_hooked
from mechsteer.runtime.batches import Sample
from mechsteer.steering.calibration import _bracket, calibrate, calibrate_sign, kl, strengths
from mechsteer.training import FitConfig, fit

PROMPTS = [[256, 5, 9, 33, 71], [256, 81], [256, 7, 7, 14], [30, 2, 120, 4, 9, 250]]
N_NEW = 6
LAYER = 1
GENERATED = ms.TokenScope.generated(include_last_prompt=True)


def direction(seed: int = 3) -> Tensor:
    return torch.randn(toys.D_MODEL, generator=torch.Generator().manual_seed(seed))


def static(coeff: float = 1.0, scope: ms.TokenScope = GENERATED) -> ms.Intervention:
    return ms.Intervention(ms.adapters.Static(direction()), ms.Site(LAYER), scope=scope, coeff=coeff)


def last_prompt(n_prompt: int) -> int:
    return n_prompt - 1


def start(_n_prompt: int) -> int:
    return 0


def constant(score: float):
    def metric(_model, _iv, _held_out) -> float:
        return score

    return metric


def layers_of(hf) -> nn.ModuleList:
    return hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers


@torch.no_grad()
def reference(hf, delta: Tensor, first_touched, prompts=PROMPTS) -> tuple[float, list[Tensor]]:
    """(mean KL, activations at the touched positions), row by row: `delta` is added from column `first_touched(P)` on."""
    terms, touched = [], []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        for _ in range(N_NEW):
            ids = torch.cat([ids, hf(ids).logits[:, -1:].argmax(-1)], 1)
        if 257 in ids[0, len(prompt) :]:
            ids = ids[:, : len(prompt) + ids[0, len(prompt) :].tolist().index(257)]
        base = hf(ids).logits[0].log_softmax(-1)
        begin = first_touched(len(prompt))

        def steer(module, args, output, begin=begin):
            hidden = output[0] if isinstance(output, tuple) else output
            touched.append(hidden[0, begin:])
            hidden = torch.cat([hidden[:, :begin], hidden[:, begin:] + delta], 1)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = layers_of(hf)[LAYER].register_forward_hook(steer)
        steered = hf(ids).logits[0].log_softmax(-1)
        handle.remove()
        at = slice(len(prompt) - 1, ids.shape[1] - 1)
        terms.append((steered[at].exp() * (steered[at] - base[at])).sum(-1))
    return torch.cat(terms).mean().item(), touched


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(kind, model, an untouched Hugging Face model with the same weights)."""
    folder = tmp_path_factory.mktemp("m") / "toy"
    toys.hf_model("llama").save_pretrained(folder)
    toys.tokenizer().save_pretrained(folder)
    compat = ms.load_model(toys.hf_model("gpt2"), tokenizer=toys.tokenizer())
    compat.enable_compatibility_mode(disable_warnings=True)
    return {
        "bridge": (ms.load_model(toys.hf_model("qwen3"), tokenizer=toys.tokenizer()), toys.hf_model("qwen3")),
        "hooked": (ms.load_model(folder, backend="hooked") if has_hooked() else None, toys.hf_model("llama")),
        "compat": (compat.requires_grad_(False), toys.hf_model("gpt2")),
    }


@pytest.mark.parametrize("kind", ["bridge", "hooked"])
@pytest.mark.parametrize(("scope", "first"), [(GENERATED, last_prompt), (ms.TokenScope.all(), start)])
def test_the_budget_is_spent_as_plain_hugging_face_forwards_measure_it(models, kind, scope, first):
    model, hf = models[kind]
    before = model(torch.tensor([PROMPTS[0]]))
    for target in (0.01, 0.1):
        iv = calibrate(
            model, static(scope=scope), PROMPTS, target_kl=target, max_new_tokens=N_NEW, tolerance=0.02, batch_size=3
        )
        assert iv.coeff > 0
        measured, _ = reference(hf, iv.coeff * direction(), first)
        assert measured == pytest.approx(target, rel=0.021)
        assert kl(model, iv, PROMPTS, max_new_tokens=N_NEW) == pytest.approx(measured, rel=1e-3)
    assert torch.equal(model(torch.tensor([PROMPTS[0]])), before)


def test_compatibility_mode_calibrates_too(models):
    model, _ = models["compat"]
    iv = calibrate(model, static(), PROMPTS, target_kl=0.1, max_new_tokens=N_NEW)
    assert kl(model, iv, PROMPTS, max_new_tokens=N_NEW) == pytest.approx(0.1, rel=0.02)


def test_a_steering_keeps_its_parts_and_an_intervention_its_sign(models):
    model, hf = models["bridge"]
    steering = ms.Steering([static(3.0), static(-1.0)])  # together 2 v
    done = calibrate(model, steering, PROMPTS, target_kl=0.1, max_new_tokens=N_NEW)
    assert [iv.coeff for iv in done.interventions] == [3.0, -1.0]
    assert reference(hf, 2 * done.coeff * direction(), last_prompt)[0] == pytest.approx(0.1, rel=0.021)
    negative = calibrate(model, static(-7.0), PROMPTS, target_kl=0.1, max_new_tokens=N_NEW)
    assert negative.coeff < 0
    assert reference(hf, negative.coeff * direction(), last_prompt)[0] == pytest.approx(0.1, rel=0.021)


def test_the_scale_of_the_vector_does_not_matter(models):
    model, _ = models["bridge"]
    norms = []
    for scale in (1e-6, 1e6):
        iv = ms.Intervention(ms.adapters.Static(scale * direction()), ms.Site(LAYER), scope=GENERATED)
        norms.append(scale * calibrate(model, iv, PROMPTS, max_new_tokens=N_NEW).coeff)
    assert norms == pytest.approx([calibrate(model, static(), PROMPTS, max_new_tokens=N_NEW).coeff] * 2, rel=0.02)


def test_unreachable_targets_and_vectors_without_effect_say_so(models):
    model, _ = models["bridge"]
    with pytest.raises(ConfigError, match=r"largest KL reached is \d"):
        calibrate(model, static(), PROMPTS, target_kl=1e3, max_new_tokens=N_NEW)
    zero = ms.Intervention(ms.adapters.Static(torch.zeros(toys.D_MODEL)), ms.Site(LAYER))
    with pytest.raises(ConfigError, match="adds nothing at any position"):
        calibrate(model, zero, PROMPTS, max_new_tokens=N_NEW)
    nowhere = static(scope=ms.TokenScope.from_position(100))
    with pytest.raises(ConfigError, match="adds nothing at any position"):
        calibrate(model, nowhere, PROMPTS, max_new_tokens=N_NEW)
    # before the prompt's last position at the last layer: added, but read by nothing
    unread = ms.Intervention(ms.adapters.Static(direction()), ms.Site(2), scope=ms.TokenScope.until(1))
    with pytest.raises(ConfigError, match="changes nothing: KL stays below"):
        calibrate(model, unread, PROMPTS, max_new_tokens=N_NEW)
    with pytest.raises(ConfigError, match="target_kl=0"):
        calibrate(model, static(), PROMPTS, target_kl=0.0)


def test_the_smallest_crossing_is_bracketed_where_kl_is_not_monotone():
    def wavy(c: float) -> float:
        return 0.2 * math.sin(c) ** 2  # reaches 0.1 first at π/4, falls back at 3π/4

    low, high, _ = _bracket(wavy, 0.1, 1e-3, 1e3)
    assert low[0] < math.pi / 4 <= high[0] < 3 * math.pi / 4
    low, high, _ = _bracket(wavy, 0.1, 0.9, 1e3)  # begins past the crossing
    assert low[0] < math.pi / 4 <= high[0]


@extras.needs_hooked
def test_strengths_are_norms_and_kl(models):
    model, hf = models["hooked"]
    unused = ms.Intervention(ms.adapters.Static(direction()), ms.Site(0), scope=GENERATED, coeff=0.0)
    found = strengths(model, [static(-0.5), unused], PROMPTS, max_new_tokens=N_NEW)
    expected_kl, acts = reference(hf, -0.5 * direction(), last_prompt)
    assert found.sites == ("resid_post@1", "resid_post@0")
    assert found.raw == pytest.approx((0.5 * direction().norm().item(), 0.0), rel=1e-5)
    mean_norm = torch.cat(acts).norm(dim=-1).mean().item()
    assert found.relative == pytest.approx((found.raw[0] / mean_norm, 0.0), rel=1e-4)
    assert found.kl == pytest.approx(expected_kl, rel=1e-3)
    assert found.n_positions == len(torch.cat(acts)) - len(
        PROMPTS
    )  # the last new token of a row predicts nothing asked for
    assert found.to_dict()["sites"] == ["resid_post@1", "resid_post@0"]


def test_the_sign_that_scores_better_is_kept(models):
    model, _ = models["bridge"]
    calls = []

    def metric(given, iv, held_out):
        assert given is model
        calls.append((iv.coeff, tuple(held_out)))
        return [-iv.coeff for _ in held_out]

    choice = calibrate_sign(model, static(2.0), metric, ["a", "b"])
    assert calls == [(2.0, ("a", "b")), (-2.0, ("a", "b"))]
    assert (choice.sign, choice.intervention.coeff, choice.n_held_out) == (-1, -2.0, 2)
    assert choice.to_dict() == {"sign": -1, "score_plus": -2.0, "score_minus": 2.0, "n_held_out": 2}
    assert calibrate_sign(model, static(-2.0), constant(0.5), ["a"]).sign == 1  # a tie
    with pytest.raises(ConfigError, match="decide no sign"):
        calibrate_sign(model, static(), metric, [])
    with pytest.raises(NonFiniteError, match="the metric gave nan"):
        calibrate_sign(model, static(), constant(math.nan), ["a"])


def test_prompts_that_end_at_once_are_refused(models, monkeypatch):
    model, _ = models["bridge"]
    first = ms.generate(model, [PROMPTS[1]], max_new_tokens=1, stop_tokens=()).tokens[0][0]
    monkeypatch.setattr(model.original_model.generation_config, "eos_token_id", first)
    with pytest.raises(DataError, match="ends all of these prompts at once"):
        kl(model, static(), [PROMPTS[1]])


def test_a_nan_kl_is_an_error(models):
    model, _ = models["bridge"]
    with pytest.raises(NonFiniteError):
        kl(model, static(3e38), PROMPTS, max_new_tokens=N_NEW)


@pytest.mark.parametrize("kind", ["bridge", "hooked"])
def test_training_works_after_a_calibration(models, kind):
    model, _ = models[kind]
    iv = calibrate(model, static(), PROMPTS, max_new_tokens=2)
    result = fit(model, iv, [Sample([256, 4], [7, 8])], FitConfig(epochs=1), progress=False)
    assert not torch.equal(result.steering.interventions[0].adapter.vector, direction())
