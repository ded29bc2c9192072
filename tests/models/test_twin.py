"""The twin: a plain Hugging Face module over the bridge's own parameters, or None where it would not be the same."""

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.models import POINTS, twin_of

TOKENS = torch.tensor(toys.prompts(9, 9))
SHARING = ("llama", "qwen3", "gpt2")


@pytest.mark.parametrize("family", SHARING)
def test_parameters_are_the_same_objects(family):
    model = toys.shared(family)
    twin = twin_of(model)
    assert twin is not None
    bridges = {id(p) for p in model.original_model.parameters()}
    ours = dict(twin.hf.named_parameters())
    assert set(ours) == set(dict(toys.hf_model(family).named_parameters()))
    assert all(id(p) in bridges for p in ours.values())
    assert type(twin.hf) is type(toys.hf_model(family))
    assert not any(p.is_meta for p in [*twin.hf.parameters(), *twin.hf.buffers()])
    assert twin_of(model).hf is twin.hf  # built once


@pytest.mark.parametrize("family", SHARING)
def test_logits_are_the_models(family):
    model = toys.shared(family)
    twin, mask = twin_of(model), torch.tensor([[0, 0] + [1] * 7, [1] * 9])
    with torch.no_grad():
        torch.testing.assert_close(
            twin.runner.forward(TOKENS, None, None, use_cache=False)[0], model(TOKENS), rtol=0, atol=5e-5
        )
        padded = twin.runner.forward(TOKENS, mask, None, use_cache=False)[0]
        torch.testing.assert_close(padded[0, 2:], model(TOKENS[:1, 2:])[0], rtol=0, atol=5e-5)
        last = twin.runner.forward(TOKENS, None, None, use_cache=False, last_only=True)[0]
    assert last.shape == (2, 1, toys.D_VOCAB)


@pytest.mark.parametrize("family", SHARING)
def test_hooks_on_the_twin_do_what_they_do_on_the_bridge(family):
    """At every point that the twin supports, values read are the bridge's, and a vector written moves the logits alike."""
    model = toys.shared(family)
    twin, points = twin_of(model), ms.sites.list_sites(model)
    supported = [s for s in points if s.layer == 1 and twin.supports(s.resolve(model))]
    assert {"resid_post", "attn_out", "mlp_out"} <= {s.point for s in supported} <= set(POINTS)
    for site in supported:
        name, seen = site.resolve(model), []
        noise = None
        logits = []
        for backend in (ms.models.backend_of(model), twin):

            def write(acts, seen=seen):
                seen.append(acts)
                nonlocal noise
                if noise is None:
                    noise = torch.randn(acts.shape[2:], generator=torch.Generator().manual_seed(0))
                return acts + noise

            remove = backend.runner.attach(name, write)
            with torch.no_grad():
                logits.append(backend.runner.forward(TOKENS, None, None, use_cache=False)[0])
            remove()
        assert seen[0].shape == seen[1].shape
        torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=5e-5, msg=str(site))
        torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-4, msg=str(site))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.hf.modules())


def test_no_twin_where_it_would_not_be_the_same():
    assert twin_of(toys.shared("llama", "compatibility")) is None
    assert twin_of(toys.shared("neox")) is None  # its bridge keeps a copy of q, k and v


def test_no_twin_of_a_hooked_model():
    assert twin_of(toys.shared("llama", "hooked")) is None


def test_no_twin_under_somebody_elses_hook():
    model = toys.load("gpt2")
    assert twin_of(model) is not None
    with torch.no_grad():
        model.run_with_cache(TOKENS)
    assert twin_of(model) is not None  # what run_with_cache leaves behind is idle
    model.add_hook("blocks.1.hook_resid_post", lambda acts, hook: acts)
    assert twin_of(model) is None
    model.reset_hooks()
    assert twin_of(model) is not None
    inner = model.original_model.transformer.h[0]
    for register in (inner.register_forward_hook, inner.register_forward_pre_hook):
        handle = register(lambda *args: None)
        assert twin_of(model) is None
        handle.remove()
    assert twin_of(model) is not None


def test_ours_are_not_foreign():
    model = toys.load("llama")
    with ms.steer(model, ms.Intervention(ms.adapters.Static(toys.vector()), ms.Site(1))):
        assert twin_of(model) is not None


@pytest.mark.parametrize("family", SHARING)
def test_folded_weights(family):
    """A folded bias that the plain module has a place for is shared; one it has not (Llama's down) means no twin."""
    model = toys.load(family)
    base = twin_of(model)
    ms.fold(model, ms.Intervention(ms.adapters.Static(toys.vector()), ms.Site(1)))
    twin = twin_of(model)
    if family == "gpt2":
        assert twin.hf is not base.hf
        with torch.no_grad():
            logits = twin.runner.forward(TOKENS, None, None, use_cache=False)[0]
            torch.testing.assert_close(logits, model(TOKENS), rtol=0, atol=5e-5)
    else:
        assert twin is None
    ms.unfold(model)
    assert twin_of(model) is not None


def test_a_model_in_training_or_another_dtype_stays_itself():
    model = toys.load("llama", dtype=torch.bfloat16)
    twin = twin_of(model)
    assert {p.dtype for p in twin.hf.parameters()} == {torch.bfloat16}
    assert not twin.hf.training
