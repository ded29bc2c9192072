"""Ablation and clamping against the algebra of projections, on the activations themselves."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.adapters import Ablation, Clamp
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError

TOKENS = torch.tensor(toys.prompts(6, 6))
D = toys.vector(3)
UNIT = D / D.norm()
SITE = ms.Site(1)


def resid(model, interventions=()) -> torch.Tensor:
    """The residual stream [batch pos d] behind block 1, as steered."""
    seen = []
    hook = SITE.resolve(model)
    with torch.no_grad(), ms.steer(model, interventions):
        model.run_with_hooks(TOKENS, fwd_hooks=[(hook, lambda acts, hook: seen.append(acts.clone()))])
    return seen[0]


def delta(adapter, acts, coeff=1.0):
    ctx = ms.runtime.context.Context.whole(*acts.shape[:2])
    return adapter.delta(acts, None, coeff, ctx)[0].detach()


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_ablation_is_the_projection_onto_the_rest(scale):
    acts = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = D.double()
    projector = torch.eye(32, dtype=torch.float64) - torch.outer(d, d) / (d @ d)
    found = acts + delta(Ablation(scale * d), acts)
    torch.testing.assert_close(found, acts @ projector, rtol=1e-10, atol=1e-12)
    mirrored = acts + delta(Ablation(d), acts, 2.0)
    torch.testing.assert_close(mirrored @ d, -(acts @ d), rtol=1e-10, atol=1e-12)


def test_clamping_sets_the_coordinate_and_nothing_else():
    acts = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = D.double() / D.double().norm()
    found = acts + delta(Clamp(-4 * D.double(), 1.5), acts)
    torch.testing.assert_close(found @ -unit, torch.full((2, 5), 1.5, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    rest = torch.eye(32, dtype=torch.float64) - torch.outer(unit, unit)
    torch.testing.assert_close(found @ rest, acts @ rest, rtol=1e-10, atol=1e-12)
    half = acts + delta(Clamp(D.double(), 1.5), acts, 0.5)
    torch.testing.assert_close(half @ unit, (acts @ unit + 1.5) / 2, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(delta(Clamp(D, 0.0), acts), delta(Ablation(D), acts), rtol=1e-12, atol=0)


def test_on_a_model_the_coordinate_is_what_was_asked_for():
    model = toys.shared("llama")
    before = resid(model)
    assert (before @ UNIT).abs().max() > 0.1
    ablated = resid(model, ms.Intervention(Ablation(D), SITE))
    torch.testing.assert_close(ablated @ UNIT, torch.zeros(2, 6), rtol=0, atol=1e-5)
    clamped = resid(model, ms.Intervention(Clamp(D, 2.0), SITE, scope=ms.TokenScope.last_prompt()))
    torch.testing.assert_close(clamped[:, -1] @ UNIT, torch.full((2,), 2.0), rtol=0, atol=1e-5)
    assert torch.equal(clamped[:, :-1], before[:, :-1])


def test_the_coordinate_is_a_reading():
    model = toys.shared("llama")
    before = resid(model)
    with torch.no_grad(), ms.steer(model, ms.Intervention(Clamp(D, 2.0), SITE), record=True) as session:
        model(TOKENS)
    torch.testing.assert_close(session.readings[0]["coordinate"][0], before @ UNIT, rtol=0, atol=1e-5)


def test_bfloat16_activations_are_projected_in_float32():
    acts = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert delta(Ablation(D), acts).dtype == torch.bfloat16
    exact = acts + delta(Ablation(D), acts.double())
    torch.testing.assert_close((acts + delta(Ablation(D), acts)).double(), exact, rtol=1e-2, atol=1e-2)


def test_directions_and_arrays_are_taken_and_files_keep_them(tmp_path):
    model, v = toys.shared("llama"), ms.directions.Direction(D)
    assert torch.equal(Ablation(v).vector, Ablation(np.asarray(D)).vector)
    steering = ms.Steering([ms.Intervention(Ablation(-v), SITE), ms.Intervention(Clamp(v, 0.1), ms.Site(2), coeff=0.3)])
    path = ms.save_steering(steering, tmp_path / "s.safetensors", model)
    loaded = ms.load_steering(path, model)
    assert loaded.interventions[1].adapter.value == 0.1
    assert torch.equal(resid(model, loaded), resid(model, steering))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Ablation(torch.zeros(32)), NonFiniteError, "the direction is zero"),
        (lambda: Clamp(torch.full((32,), torch.nan), 1), NonFiniteError, "the direction is zero, or holds NaN"),
        (lambda: Clamp(D, float("inf")), NonFiniteError, "the value to clamp to is inf"),
        (
            lambda: Ablation(torch.ones(3).long()),
            ShapeError,
            "an Ablation needs a float vector [d_model], got torch.int64",
        ),
        (lambda: Clamp(torch.ones(1, 2, 3), 0), ShapeError, "a Clamp needs a float vector"),
        (lambda: Ablation.fresh(32, 32), ConfigError, "ablation takes a direction that is known"),
        (lambda: resid(toys.shared("llama"), ms.Intervention(Ablation(D[:7]), SITE)), ShapeError, "shape (7,)"),
        (
            lambda: ms.fold(toys.load("llama"), ms.Intervention(Ablation(D), SITE)),
            ConfigError,
            "a bias cannot express the adapter Ablation",
        ),
        (
            lambda: ms.export_gguf(ms.Intervention(Clamp(D, 1), SITE), "no.gguf"),
            ConfigError,
            "a GGUF control vector cannot express the adapter Clamp",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
