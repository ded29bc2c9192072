"""Steering refuses what it would get silently wrong: scopes, caches, names, hooks that never fire."""

import pytest
import torch
import toys
from contract.examples import Recurrent
from steering_toys import SOME, TOKENS, Copy, forward_then_raise, noisy, run, static
from torch import nn

import mechsteer as ms
from mechsteer.errors import (
    ConfigError,
    DataError,
    HookNeverFiredError,
    ModelLoadError,
    NonFiniteError,
    ScopeError,
    ShapeError,
    UnknownSiteError,
)
from mechsteer.models import backend_of

S = ms.TokenScope


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_a_scope_that_can_touch_nothing(family, kind):
    model = toys.shared(family, kind)
    with pytest.raises(ScopeError, match=r"(?s)TokenScope.generated.*touches nothing.*prompt_lengths="):
        run(model, static(scope=S.generated()))
    with pytest.raises(ScopeError, match="touches nothing"):
        model.run_with_hooks(TOKENS, fwd_hooks=static(scope=S.generated()).fwd_hooks(model))
    run(model, static(scope=S.generated()), prompt_lengths=[4, 4])
    run(model, static(scope=S.generated(include_last_prompt=True)))
    with pytest.raises(ScopeError, match="one length"):
        run(model, static(), prompt_lengths=[4])
    assert toys.hooks_left(model) == 0


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_the_models_own_generation_without_a_cache(family, kind):
    model = toys.shared(family, kind)
    options = {"max_new_tokens": 3, "do_sample": False, "stop_at_eos": False, "verbose": False}
    iv = static(scope=S.generated(include_last_prompt=True))
    message = r"(?s)no meaning in the model's own generation without a cache.*mechsteer.generate"
    with pytest.raises(ScopeError, match=message), ms.steer(model, iv):
        model.generate(TOKENS[:1], use_past_kv_cache=False, **options)
    assert toys.hooks_left(model) == 0
    with ms.steer(model, static()):  # a scope that does not ask where the prompt ends is fine
        free = model.generate(TOKENS[:1], use_past_kv_cache=False, **options)
        assert torch.equal(free, model.generate(TOKENS[:1], **options))


@pytest.mark.parametrize("kind", ["bridge", "compatibility"])
def test_unmasked_left_padding(kind):
    model = toys.shared("llama", kind)
    padded = torch.tensor([[258] * 3 + TOKENS[0, :5].tolist(), TOKENS[1].tolist()])
    with pytest.raises(DataError, match=r"(?s)left-padded, but no attention_mask.*attention_mask=mask"):
        run(model, static(), padded)
    assert toys.hooks_left(model) == 0


def test_hidden_padding_does_not_count():
    """HookedTransformer finds left padding itself: positions follow."""
    model = toys.shared("llama", "hooked")
    row = TOKENS[0, :5].tolist()
    padded = torch.tensor([[258] * 3 + row, TOKENS[1].tolist()])
    iv = static(scope=S.positions([0, 1]))
    mask = torch.tensor([[0] * 3 + [1] * 5, [1] * 8])
    with torch.no_grad(), ms.steer(model, iv):
        both = model(padded, attention_mask=mask, padding_side="left")
    torch.testing.assert_close(both[0, 3:], run(model, iv, torch.tensor([row]))[0], rtol=0, atol=5e-5)


def decode(backend, row, n_new, cache=None):
    """Cached greedy-free decoding of known tokens, one forward per step."""
    logits, cache = backend.runner.forward(torch.tensor([row[:-n_new]]), None, cache, use_cache=True)
    yield logits[:, -1], cache
    for token in row[-n_new:]:
        logits, cache = backend.runner.forward(torch.tensor([[token]]), None, cache, use_cache=True)
        yield logits[:, -1], cache


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_interleaved_generations_in_one_block(family, kind):
    """Two caches filled in turns: positions, prompt lengths and recurrent states are each cache's own."""
    model = toys.shared(family, kind)
    backend = backend_of(model)
    ivs = [static(scope=S.window(6, 9)), ms.Intervention(noisy(Recurrent(32)), ms.Site(0), scope=S.generated(True))]
    a, b = toys.prompts(9, 12, seed=3)
    with torch.no_grad(), ms.steer(model, ivs):
        alone = [[logits for logits, _ in decode(backend, row, 4)] for row in (a, b)]
        turns = list(zip(decode(backend, a, 4), decode(backend, b, 4), strict=True))
        for i, expected in enumerate(alone):
            assert all(torch.equal(turn[i][0], logits) for turn, logits in zip(turns, expected, strict=True))


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_a_cache_from_elsewhere_cannot_be_continued(family, kind):
    model = toys.shared(family, kind)
    backend, token = backend_of(model), TOKENS[:, :1]
    with torch.no_grad():
        _, cache = backend.runner.forward(TOKENS, None, None, use_cache=True)
        with (
            pytest.raises(ScopeError, match=r"(?s)continues a cache.*run the prefill inside"),
            ms.steer(model, static()),
        ):
            backend.runner.forward(token, None, cache, use_cache=True)
    assert toys.hooks_left(model) == 0


def test_a_cache_of_other_rows_cannot_be_continued():
    model = toys.shared("llama")
    backend = backend_of(model)
    with torch.no_grad(), ms.steer(model, static()):
        _, cache = backend.runner.forward(TOKENS, None, None, use_cache=True)
        with pytest.raises(ScopeError, match="filled with 2 rows, this forward has 1"):
            backend.runner.forward(TOKENS[:1, :1], None, cache, use_cache=True)
    assert toys.hooks_left(model) == 0


def twice(model, ivs):
    with torch.no_grad(), ms.steer(model, ivs):
        model(TOKENS)
        model(TOKENS)


def test_a_hook_that_never_fires():
    """Somebody replaced block 1: its inner hooks are passed by, and the run would equal the base model."""
    model = toys.load("llama")
    model.blocks[1].__dict__["forward"] = lambda hidden_states, **kwargs: hidden_states
    message = r"(?s)\['attn_out@1'\] never fired in 2 forward\(s\).*write at resid_post"
    with pytest.raises(HookNeverFiredError, match=message):
        twice(model, [static(2, 0), static(1, 1, "attn_out")])
    twice(model, [static(2, 0), static(1, 2)])
    with ms.steer(model, static(1, 1, "attn_out")):
        pass  # without a forward there is nothing to complain of


def test_an_exception_is_not_hidden_by_a_silent_hook():
    model = toys.load("llama")
    model.blocks[1].__dict__["forward"] = lambda hidden_states, **kwargs: hidden_states
    with pytest.raises(KeyError), ms.steer(model, static(1, 1, "attn_out")):
        forward_then_raise(model)


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_unknown_names(family, kind):
    model = toys.shared(family, kind)
    with pytest.raises(UnknownSiteError, match=r"(?s)no point 'resid_psot'.*resid_post"):
        ms.Site(0, "resid_psot")
    with pytest.raises(UnknownSiteError, match=r"(?s)no layer 3 in a model with 3 layers.*0 to 2"):
        run(model, static(layer=3))
    with pytest.raises(UnknownSiteError, match=r"(?s)no hook 'blocks.0.hook_resid_psot'.*blocks.0.hook_resid_post"):
        backend_of(model).names.check_hook("blocks.0.hook_resid_psot")


@pytest.mark.parametrize("kind", ["bridge", "compatibility"])
def test_resid_mid_is_read_only_on_the_bridge(kind):
    model = toys.shared("llama", kind)
    with pytest.raises(
        UnknownSiteError, match=r"(?s)resid_mid can be read but not written.*attn_out of the same layer"
    ):
        run(model, static(point="resid_mid"))
    iv = ms.Intervention(Copy(), ms.Site(1), read=ms.Site(1, "resid_mid"), coeff=0.5)
    with torch.no_grad():
        cache = model.run_with_cache(TOKENS)[1]
        with ms.steer(model, iv):
            after = model.run_with_cache(TOKENS)[1]
    mid = cache["blocks.1.hook_resid_pre"] + cache["blocks.1.hook_attn_out"]
    expected = cache["blocks.1.hook_resid_post"] + 0.5 * mid
    torch.testing.assert_close(after["blocks.1.hook_resid_post"], expected, rtol=0, atol=1e-5)


def test_resid_mid_written_on_hooked_is_attn_out_written():
    model = toys.shared("llama", "hooked")
    torch.testing.assert_close(run(model, static(point="resid_mid")), run(model, static(point="attn_out")))


def test_bad_adapters_and_numbers():
    model = toys.shared("llama")
    with pytest.raises(ShapeError, match=r"vector has shape \(31,\), the activation at the site \(32,\)"):
        run(model, ms.Intervention(ms.adapters.Static(toys.vector(size=31)), ms.Site(0)))
    with pytest.raises(
        ShapeError, match=r"a static adapter needs a float vector \[d_model\], got shape \(2,\), torch.int64"
    ):
        ms.adapters.Static(torch.tensor([1, 2]))
    with pytest.raises(ShapeError, match="got str"):
        ms.adapters.Static("a vector")
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        ms.adapters.Static(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ConfigError, match=r"(?s)Tensor is not an adapter.*Static"):
        ms.Intervention(toys.vector(), ms.Site(0))
    with pytest.raises(UnknownSiteError, match="'resid_post' is no hook of a block"):
        ms.Intervention(ms.adapters.Static(toys.vector()), "resid_post")
    with pytest.raises(ConfigError, match="coeff is nan"):
        static(coeff=float("nan"))
    with pytest.raises(ModelLoadError, match=r"(?s)Linear is neither.*load_model"), ms.steer(nn.Linear(2, 2), static()):
        pass
    assert toys.hooks_left(model) == 0
