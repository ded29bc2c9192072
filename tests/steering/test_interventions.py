"""Steering: what it does to a model, in which order, and that it leaves nothing behind."""

import pytest
import torch
import toys
from contract.examples import PromptBooster, Recurrent, Rotation
from steering_toys import ALL, SOME, TOKENS, Copy, forward_then_raise, noisy, run, static

import mechsteer as ms
from mechsteer.errors import (
    UnknownSiteError,
)
from mechsteer.models import backend_of
from mechsteer.models.runner import BlockRunner
from mechsteer.runtime.session import open_sessions
from mechsteer.steering.interventions import flatten
from mechsteer.steering.presets import bias_only

S = ms.TokenScope


# -- nothing is left ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), ALL)
def test_afterwards_the_model_is_one_that_never_saw_us(family, kind):
    model, untouched = toys.shared(family, kind), toys.load(family, kind)
    with torch.no_grad():
        base = untouched(TOKENS)
    ivs = [static(), static(2, 0, "attn_out", scope=S.last_prompt()), ms.Intervention(Recurrent(32), ms.Site(0))]
    assert not torch.equal(run(model, ivs), base)
    with pytest.raises(KeyError), ms.steer(model, ivs):
        forward_then_raise(model)
    assert toys.hooks_left(model) == 0
    assert open_sessions(model) == []
    assert torch.equal(run(model), base)
    theirs = backend_of(untouched).weights.named_weights()
    for name, weight in backend_of(model).weights.named_weights().items():
        assert torch.equal(weight, theirs[name]), name


@pytest.mark.parametrize(("family", "kind"), SOME)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_attaching_that_fails_half_way_leaves_nothing(family, kind, at, monkeypatch):
    model = toys.shared(family, kind)
    base, attach, calls = run(model), BlockRunner.attach, []

    def failing(self, name, fn):
        if len(calls) == at:
            raise RuntimeError("no room")
        calls.append(name)
        return attach(self, name, fn)

    monkeypatch.setattr(BlockRunner, "attach", failing)
    with pytest.raises(RuntimeError, match="no room"), ms.steer(model, [static(), static(2, 0), static(3, 2)]):
        raise AssertionError("the block must not run")
    assert toys.hooks_left(model) == 0
    assert open_sessions(model) == []
    monkeypatch.undo()
    assert torch.equal(run(model), base)


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_coeff_zero_attaches_nothing(family, kind):
    model = toys.shared(family, kind)
    for nothing in (static(coeff=0.0), ms.Steering([static()], coeff=0.0), []):
        with torch.no_grad(), ms.steer(model, nothing):
            assert toys.hooks_left(model) == 0
            inside = model(TOKENS)
        assert torch.equal(inside, run(model))
    with pytest.raises(UnknownSiteError, match="no layer 7"), ms.steer(model, static(layer=7, coeff=0.0)):
        pass  # a wrong site is a mistake at any strength


@pytest.mark.parametrize("kind", toys.KINDS)
def test_two_models_at_once_are_independent(kind):
    one, two = toys.shared("llama", kind), toys.shared("gpt2", kind)
    first, second = run(one, static(1)), run(two, static(2))
    with torch.no_grad(), ms.steer(one, static(1)), ms.steer(two, static(2)):
        assert torch.equal(two(TOKENS), second)
        assert torch.equal(one(TOKENS), first)


# -- order -------------------------------------------------------------------------------------------------------


def pair():
    """Two interventions at one site that do not commute."""
    return static(5), ms.Intervention(noisy(Rotation(32), 0.1), ms.Site(1))


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_order_at_one_site_and_nesting(family, kind):
    """Later ones see what earlier ones wrote; an enclosing block is earlier."""
    model, (shift, rotate) = toys.shared(family, kind), pair()
    shifted_first, rotated_first = run(model, [shift, rotate]), run(model, [rotate, shift])
    assert (shifted_first - rotated_first).abs().max() > 1e-2
    for outer, inner, expected in ((shift, rotate, shifted_first), (rotate, shift, rotated_first)):
        with ms.steer(model, outer):
            assert torch.equal(run(model, inner), expected)
            assert torch.equal(run(model), run(model, ())), "an empty block changes nothing"
        assert torch.equal(run(model, [ms.Steering([outer]), [inner]]), expected)
    assert toys.hooks_left(model) == 0


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_enclosing_blocks_come_first_in_generate_and_capture(family, kind):
    model, (shift, rotate) = toys.shared(family, kind), pair()
    prompts = toys.prompts(4, 6)

    def generated(ivs):
        return ms.generate(model, prompts, ivs, max_new_tokens=6, stop_tokens=()).tokens

    def captured():
        return ms.capture(model, prompts, [ms.Site(1)], progress=False)[ms.Site(1)].values

    orders = {}
    for name, outer, inner in (("shift first", shift, rotate), ("rotation first", rotate, shift)):
        expected = generated([outer, inner])
        with ms.steer(model, outer):
            assert generated(inner) == expected
            with ms.steer(model, inner):
                assert generated(()) == expected
                nested = captured()
        with ms.steer(model, [outer, inner]):
            torch.testing.assert_close(captured(), nested, rtol=0, atol=1e-5)
        orders[name] = expected, nested
    assert orders["shift first"][0] != orders["rotation first"][0]
    assert not torch.allclose(orders["shift first"][1], orders["rotation first"][1], atol=1e-2)


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_reading_before_writing(family, kind):
    """delta = 0.5 · resid_pre of layer 1, written after layer 1; the hand-written hooks say the same."""
    model = toys.shared(family, kind)
    iv = ms.Intervention(Copy(), ms.Site(1, "resid_post"), read=ms.Site(1, "resid_pre"), coeff=0.5)
    seen = {}
    expected = model.run_with_hooks(
        TOKENS,
        fwd_hooks=[
            ("blocks.1.hook_resid_pre", lambda acts, hook: seen.update(acts=acts.clone())),
            ("blocks.1.hook_resid_post", lambda acts, hook: acts + 0.5 * seen["acts"]),
        ],
    )
    torch.testing.assert_close(run(model, iv), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.run_with_hooks(TOKENS, fwd_hooks=iv.fwd_hooks(model)), expected, rtol=0, atol=1e-5)
    later = ms.Intervention(Copy(), ms.Site(1, "attn_out"), read=ms.Site(1, "mlp_out"))
    with pytest.raises(UnknownSiteError, match="reads at mlp_out@1 after it writes at attn_out@1"):
        run(model, later)


def test_reading_through_an_enclosing_intervention():
    """A reader sees the steered activation of an earlier intervention at the site it reads."""
    model, reader = toys.shared("llama"), ms.Intervention(Copy(), ms.Site(2), read=ms.Site(1), coeff=0.5)
    seen = {}
    expected = model.run_with_hooks(
        TOKENS,
        fwd_hooks=[
            ("blocks.1.hook_resid_post", lambda acts, hook: seen.setdefault("acts", acts + toys.vector(1))),
            ("blocks.2.hook_resid_post", lambda acts, hook: acts + 0.5 * seen["acts"]),
        ],
    )
    torch.testing.assert_close(run(model, [static(1), reader]), expected, rtol=0, atol=1e-5)


# -- caches, gradients, plain hooks ------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), ALL)
def test_run_with_cache_holds_what_was_written(family, kind):
    model, iv = toys.shared(family, kind), static()
    name = iv.site.resolve(model)
    with torch.no_grad():
        _, before = model.run_with_cache(TOKENS)
        with ms.steer(model, iv):
            logits, after = model.run_with_cache(TOKENS)
    torch.testing.assert_close(after[name], before[name] + toys.vector(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, run(model, iv), rtol=0, atol=1e-6)


@pytest.mark.parametrize("adapter", [ms.adapters.Static(toys.vector()), Rotation(32), PromptBooster(32), Recurrent(32)])
def test_gradients_are_those_of_finite_differences(adapter):
    """Along a random direction of all adapter parameters, in float64."""
    model = toys.load("gpt2", dtype=torch.float64)
    adapter = noisy(adapter.double(), 0.1)
    iv, parameters = ms.Intervention(adapter, ms.Site(1), coeff=0.5), list(adapter.parameters())
    weights = torch.randn(2, 8, toys.D_VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def loss():
        with ms.steer(model, iv, prompt_lengths=[5, 3]):
            return (model(TOKENS).log_softmax(-1) * weights).sum()

    gradient = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(4)
    direction = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in parameters]
    predicted = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
    step, ends = 1e-5, []
    with torch.no_grad():
        for sign in (1, -2):  # forward, then back through the middle
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * step * d)
            ends.append(float(loss()))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(predicted, rel=1e-6)


def test_backward_gives_the_model_no_gradient():
    model, iv = toys.shared("llama"), static()
    with ms.steer(model, iv):
        model(TOKENS)[:, -1].sum().backward()
    assert iv.adapter.vector.grad.any()
    assert all(w.grad is None for w in backend_of(model).weights.named_weights().values())


SCOPES = {
    "all": S.all(),
    "prompt": S.prompt(),
    "generated": S.generated(),
    "generated with last prompt": S.generated(True),
    "last_prompt": S.last_prompt(),
    "from_position": S.from_position(3),
    "until": S.until(4),
    "positions": S.positions([0, 2, 5]),
    "window": S.window(2, 5),
    "token_ids": S.token_ids(TOKENS[0, ::2].tolist()),
    "after_token": S.after_token(int(TOKENS[0, 3])),
    "rows": S.rows([1]),
    "union": S.positions([0]) | S.generated(),
    "difference": S.all() - S.last_prompt(),
    "intersection": S.generated(True) & S.until(5),
}


@pytest.mark.parametrize(("family", "kind"), [("llama", "bridge"), ("gpt2", "hooked")])
@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
def test_plain_hooks_do_what_steer_does(family, kind, scope):
    """`run_with_hooks` with nothing else: padded rows, prompt lengths, several interventions, a recurrent one."""
    model = toys.shared(family, kind)
    tokens = torch.tensor([[258] * 3 + TOKENS[0, :5].tolist(), TOKENS[1].tolist()])
    mask = torch.tensor([[0] * 3 + [1] * 5, [1] * 8])
    options = {"attention_mask": mask} | ({"padding_side": "left"} if kind == "hooked" else {})
    reader = ms.Intervention(noisy(Recurrent(32)), ms.Site(2), read=ms.Site(0, "attn_out"), scope=scope)
    st = ms.Steering([static(scope=scope), static(2, 0, "mlp_out", scope=scope), reader], coeff=1.5)
    with torch.no_grad():
        with ms.steer(model, st, prompt_lengths=[3, 4]):
            expected = model(tokens, **options)
        hooks = st.fwd_hooks(model, attention_mask=mask, prompt_lengths=[3, 4], tokens=tokens)
        assert len(hooks) == 4
        for _ in range(2):  # the same hooks serve any number of forwards
            assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=hooks, **options), expected)
        assert not torch.equal(model(tokens, **options), expected)
    assert toys.hooks_left(model) == 0
    assert static(coeff=0).fwd_hooks(model) == []


def test_untouched_positions_stay_the_same_to_the_bit():
    model, iv = toys.shared("llama"), static(2, 2, scope=S.positions([5]))
    changed = (run(model, iv) != run(model)).any(-1)
    assert changed.nonzero()[:, 1].tolist() == [5, 5]  # after the last block positions do not mix


# -- Steering ----------------------------------------------------------------------------------------------------


def test_the_common_coefficient_multiplies():
    model = toys.shared("llama")
    st = ms.Steering([static(1, coeff=2.0), static(2, 0, coeff=-1.0)], coeff=0.5)
    assert [iv.coeff for iv in flatten([st, static(3)])] == [1.0, -0.5, 1.0]
    assert torch.equal(run(model, st), run(model, [static(1, coeff=1.0), static(2, 0, coeff=-0.5)]))
    assert torch.equal(run(model, st.with_coeff(1.0)), run(model, [static(1, coeff=2.0), static(2, 0, coeff=-1.0)]))
    twice = ms.Steering([st.interventions[0], st.interventions[0]])
    assert len(twice.parameters()) == 1


def test_static_is_linear_in_its_coefficient_at_the_site():
    """Two coefficients of the same vector differ at the site by just their difference."""
    model, name = toys.shared("gpt2"), ms.Site(1).resolve(toys.shared("gpt2"))
    with torch.no_grad():
        _, base = model.run_with_cache(TOKENS)
        with ms.steer(model, static(coeff=-3.0)):
            _, cache = model.run_with_cache(TOKENS)
    torch.testing.assert_close(cache[name] - base[name], (-3 * toys.vector(1)).expand(2, 8, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_bias_only_starts_as_the_identity_and_learns(family, kind):
    model = toys.shared(family, kind)
    st = bias_only(model)
    assert [iv.site for iv in st.interventions] == [ms.Site(i, "resid_post") for i in range(toys.N_LAYERS)]
    assert torch.equal(run(model, st), run(model))
    with ms.steer(model, st):
        model(TOKENS).log_softmax(-1)[:, -1, 7].sum().backward()
    assert len(st.parameters()) == toys.N_LAYERS
    assert all(p.grad is not None and p.grad.any() for p in st.parameters())
    some = bias_only(model, [0, 0.7], point="attn_out", scope=S.prompt())
    assert [iv.site for iv in some.interventions] == [ms.Site(0, "attn_out"), ms.Site(2, "attn_out")]


def test_depth_ratios_are_resolved_when_attached():
    model = toys.shared("llama")
    ratio = ms.Intervention(ms.adapters.Static(toys.vector(1)), ms.Site(0.5, "resid_post"))
    assert torch.equal(run(model, ratio), run(model, static(layer=1)))
