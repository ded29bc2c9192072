"""What a session tells adapters and observers, and what it keeps: readings, several reads, heads, rows that stop."""

import dataclasses

import pytest
import torch
import toy_adapters
import toys
from steering_toys import ALL, SOME, TOKENS, Copy, noisy, run, static

import mechsteer as ms
from mechsteer.adapters import Adapter
from mechsteer.errors import ConfigError, HookNeverFiredError, ShapeError, UnknownSiteError
from mechsteer.models import backend_of
from mechsteer.runtime.context import Context
from mechsteer.runtime.observers import select_rows
from mechsteer.runtime.summary import PromptSummary
from mechsteer.steering.interventions import flatten, writing

S = ms.TokenScope


def gru(coeff=1.0, **options):
    return ms.Intervention(noisy(toy_adapters.GatedGru(32, 32)), ms.Site(1), coeff=coeff, **options)


def drift(layer=1, **options):
    return ms.Observation(toy_adapters.Drift(), ms.Site(layer), **options)


# -- readings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_readings_are_parallel_to_the_forwards_and_nan_outside_the_scope(family, kind):
    model, iv = toys.shared(family, kind), gru(scope=S.from_position(3))
    with torch.no_grad(), ms.steer(model, [static(), iv], record=True) as session:
        model(TOKENS)
        model(TOKENS[:1, :5])
    assert [len(session.contexts), len(session.recorded[0]), len(session.recorded[1])] == [2, 2, 2]
    assert [sorted(names) for names in session.readings] == [["delta_norm"], ["delta_norm", "gate", "hidden"]]
    gates, hidden, norms = (session.readings[1][name] for name in ("gate", "hidden", "delta_norm"))
    assert [tuple(g.shape) for g in gates] == [(2, 8), (1, 5)]
    assert tuple(hidden[0].shape) == (2, 8, 4)
    assert torch.isnan(gates[0][:, :3]).all()
    assert torch.isnan(hidden[0][:, :3]).all()
    assert ((gates[0][:, 3:] > 0) & (gates[0][:, 3:] < 1)).all()
    assert (norms[0][:, :3] == 0).all()  # what was added there is known
    for norm, delta in zip(norms, session.recorded[1], strict=True):
        torch.testing.assert_close(norm, delta.norm(dim=-1))
    torch.testing.assert_close(session.readings[0]["delta_norm"][0], toys.vector(1).norm().expand(2, 8))


def test_nobody_records_nothing_is_kept():
    model, iv = toys.shared("llama"), gru()
    with torch.no_grad(), ms.steer(model, [iv, drift()]) as session:
        model(TOKENS)
    assert (session.readings, session.recorded, session.contexts) == ([{}, {}], None, [])


def test_what_was_noted_now_and_then_has_gaps():
    class AtThePrompt(toy_adapters.Drift):
        def observe(self, acts, state, ctx):
            if ctx.is_prefill:
                ctx.note("prompt", ctx.positions)
            else:
                ctx.note("later", ctx.positions)

    model = toys.shared("llama")
    runner = backend_of(model).runner
    with torch.no_grad(), ms.steer(model, ms.Observation(AtThePrompt(), ms.Site(0)), record=True) as session:
        _, cache = runner.forward(TOKENS, None, None, use_cache=True)
        runner.forward(TOKENS[:, :1], None, cache, use_cache=True)
        runner.forward(TOKENS, None, None, use_cache=False)
    (noted,) = session.readings
    assert [v is None for v in noted["prompt"]] == [False, True, False]
    assert [v is None for v in noted["later"]] == [True, False, True]
    assert noted["later"][1].tolist() == [[8.0], [8.0]]


def test_notes_of_other_shapes_and_names_are_refused():
    ctx = dataclasses.replace(Context.whole(2, 3), readings={})
    assert ctx.is_recorded
    ctx.note("fine", torch.ones(2, 3, 4))
    for values, shape in (
        (torch.ones(2), r"\(2,\)"),
        (torch.ones(2, 4), r"\(2, 4\)"),
        (torch.ones(2, 3, 1, 1), r"\(2, 3, 1, 1\)"),
        (0.5, "float"),
    ):
        with pytest.raises(
            ShapeError, match=rf"(?s)the reading 'gate' is {shape}, this forward has \(2, 3\).*batch pos k"
        ):
            ctx.note("gate", values)
    with pytest.raises(ConfigError, match="'fine' is noted twice"):
        ctx.note("fine", torch.ones(2, 3))
    silent = Context.whole(2, 3)
    assert not silent.is_recorded
    silent.note("gate", torch.ones(7))  # nobody looks

    class Takes(Copy):
        def delta(self, acts, state, coeff, ctx):
            ctx.note("delta_norm", ctx.positions)
            return super().delta(acts, state, coeff, ctx)

    with (
        pytest.raises(ConfigError, match="delta_norm is taken"),
        ms.steer(toys.shared("llama"), ms.Intervention(Takes(), ms.Site(0)), record=True),
    ):
        toys.shared("llama")(TOKENS)


def test_gradients_reach_a_reading():
    """So that an objective may ask for sparse gates."""
    model, iv = toys.shared("llama"), gru(scope=S.from_position(2))
    with ms.steer(model, iv, record=True) as session:
        model(TOKENS)
    torch.nansum(session.readings[0]["gate"][0]).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in iv.adapter.gate.parameters())


# -- observers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), ALL)
def test_an_observer_changes_nothing_and_says_what_a_capture_says(family, kind):
    model = toys.shared(family, kind)
    with torch.no_grad(), ms.steer(model, drift(), record=True) as session:
        logits = model(TOKENS)
    assert torch.equal(logits, run(model))
    acts = run_with(model, ms.Site(1))
    means = torch.stack([acts[:, :i].mean(1) if i else torch.zeros(2, 32) for i in range(8)], 1)
    torch.testing.assert_close(session.readings[0]["drift"][0], (acts - means).norm(dim=-1), rtol=0, atol=1e-4)
    assert session.recorded == [[]]
    assert toys.hooks_left(model) == 0


def run_with(model, site):
    with torch.no_grad():
        return model.run_with_cache(TOKENS)[1][site.resolve(model)].float()


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_an_observer_is_the_same_cached_and_padded(family, kind):
    model = toys.shared(family, kind)
    runner = backend_of(model).runner
    tokens = torch.tensor([[258] * 3 + TOKENS[0, :5].tolist(), TOKENS[1].tolist()])
    mask = torch.tensor([[0] * 3 + [1] * 5, [1] * 8])
    with torch.no_grad():
        with ms.steer(model, [static(), drift()], record=True) as whole:
            runner.forward(tokens, mask, None, use_cache=False)
        with ms.steer(model, [static(), drift()], record=True) as cached:
            _, cache = runner.forward(tokens[:, :5], mask[:, :5], None, use_cache=True)
            for i in range(5, 8):
                _, cache = runner.forward(tokens[:, i : i + 1], mask[:, : i + 1], cache, use_cache=True)
    expected = whole.readings[1]["drift"][0]
    assert torch.isnan(expected[0, :3]).all()
    assert not torch.isnan(expected[mask.bool()]).any()
    joined = torch.cat(cached.readings[1]["drift"], 1)
    torch.testing.assert_close(joined, expected, rtol=0, atol=5e-5, equal_nan=True)


def test_an_observation_stands_wherever_an_intervention_does():
    model, watch, st = toys.shared("llama"), drift(2, scope=S.last_prompt()), ms.Steering(static(), coeff=0.0)
    assert flatten([st, [watch, static(2)]])[1] is watch
    assert [type(iv) for iv in flatten([static(), watch])] == [ms.Intervention, ms.Observation]
    assert writing([static(), watch]) == writing([static()]) or len(writing([static(), watch])) == 1
    assert watch.with_coeff(0.0) is watch
    with torch.no_grad(), ms.steer(model, [st, watch], record=True) as session:  # coeff 0 attaches no intervention
        model(TOKENS)
        assert toys.hooks_left(model) > 0
    (noted,) = session.readings
    assert torch.isnan(noted["drift"][0][:, :7]).all()
    assert not torch.isnan(noted["drift"][0][:, 7]).any()
    assert (
        ms.generate(model, [[5, 6]], [watch], max_new_tokens=3).tokens
        == ms.generate(model, [[5, 6]], max_new_tokens=3).tokens
    )
    seen = []

    class Tells(toy_adapters.Drift):
        def observe(self, acts, state, ctx):
            seen.append(acts.shape)

    model.run_with_hooks(TOKENS, fwd_hooks=ms.Observation(Tells(), ms.Site(0)).fwd_hooks(model))
    assert seen == [(2, 8, 32)]
    with pytest.raises(ConfigError, match=r"interventions and observations, not of Steering(?s:.*)flatten"):
        ms.Steering([st, watch])
    with pytest.raises(ConfigError, match="Copy is not an observer"):
        ms.Observation(Copy(), ms.Site(0))
    with pytest.raises(UnknownSiteError, match="no layer 9"), ms.steer(model, drift(9)):
        pass


def test_an_observer_that_is_passed_by_is_told_of():
    model = toys.load("llama")
    model.blocks[1].__dict__["forward"] = lambda hidden_states, **kwargs: hidden_states
    with (
        pytest.raises(HookNeverFiredError, match=r"attn_out@1.*never fired"),
        ms.steer(model, ms.Observation(toy_adapters.Drift(), ms.Site(1, "attn_out"))),
    ):
        model(TOKENS)


# -- several reads, heads ----------------------------------------------------------------------------------------


class Sum(Adapter):
    """c · (2 a + b) of what it reads at two sites."""

    linear_in_coeff, identity_at_init = True, False

    def delta(self, acts, state, coeff, ctx):
        first, second = acts
        return coeff * (2 * first + second), None

    config, blank = Copy.config, Copy.blank


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_several_reads_come_in_the_order_in_which_they_are_named(family, kind):
    model, low, high = toys.shared(family, kind), ms.Site(0, "attn_out"), ms.Site(1, "mlp_out")
    for read in ([low, high], [high, low], [low, ms.Site(1)]):
        iv = ms.Intervention(Sum(), ms.Site(1), read=read, coeff=0.3)
        assert iv.reads == tuple(read)
        first, second = (run_with(model, site) for site in read)
        name = ms.Site(1).resolve(model)
        expected = model.run_with_hooks(
            TOKENS, fwd_hooks=[(name, lambda acts, hook, a=first, b=second: acts + 0.3 * (2 * a + b))]
        )
        torch.testing.assert_close(run(model, iv), expected, rtol=0, atol=2e-5)
        hooks = iv.fwd_hooks(model)
        for _ in range(2):
            torch.testing.assert_close(model.run_with_hooks(TOKENS, fwd_hooks=hooks), expected, rtol=0, atol=2e-5)
    later = ms.Intervention(Sum(), ms.Site(1), read=[low, ms.Site(2)])
    with pytest.raises(UnknownSiteError, match="reads at resid_post@2 after it writes at resid_post@1"):
        run(model, later)
    assert ms.Intervention(Copy(), ms.Site(1), read=[low]).read == low  # a list of one is that one


def test_an_observer_of_two_sites():
    seen = []

    class Both(toy_adapters.Drift):
        def observe(self, acts, state, ctx):
            seen.append(acts)

    model, sites = toys.shared("gpt2"), [ms.Site(2, "mlp_out"), ms.Site(0, "attn_out")]
    run(model, ms.Observation(Both(), sites))
    (acts,) = seen
    for one, site in zip(acts, sites, strict=True):
        torch.testing.assert_close(one, run_with(model, site), rtol=0, atol=1e-6)


@pytest.mark.parametrize("point", ["q", "k", "v", "z"])
@pytest.mark.parametrize(("family", "kind"), ALL)
def test_sites_with_heads_are_handed_over_flat(family, kind, point):
    """Heads side by side, as a map's output; recorded deltas keep the heads."""
    model, site, shapes = toys.shared(family, kind), ms.Site(1, point), []
    before = run_with(model, site)
    width = before.flatten(2).shape[-1]
    scale = toys.vector(3, width)

    class Scale(Copy):
        def delta(self, acts, state, coeff, ctx):
            shapes.append(acts.shape)
            return coeff * acts * scale, None

    iv = ms.Intervention(Scale(), site, coeff=0.5)
    with torch.no_grad(), ms.steer(model, iv, record=True) as session:
        logits = model(TOKENS)
    assert shapes == [(2, 8, width)]
    expected = 0.5 * before * scale.reshape(before.shape[2:])
    torch.testing.assert_close(session.recorded[0][0], expected, rtol=0, atol=1e-5)
    name = site.resolve(model)
    by_hand = model.run_with_hooks(
        TOKENS, fwd_hooks=[(name, lambda acts, hook: acts * (1 + 0.5 * scale.reshape(acts.shape[2:])))]
    )
    torch.testing.assert_close(logits, by_hand, rtol=0, atol=5e-5)
    torch.testing.assert_close(
        session.readings[0]["delta_norm"][0], expected.flatten(2).norm(dim=-1), rtol=0, atol=1e-4
    )


class AlongTheSummary(Copy):
    """c · summary at every token, asked for anew each time."""

    summary = PromptSummary("last")

    def delta(self, acts, state, coeff, ctx):
        return coeff * ctx.summary[:, None].expand_as(acts), None


# -- rows that stop ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_the_rest_of_the_rows_goes_on_as_before(family, kind):
    """Scopes over rows, positions and tokens seen earlier, states, summaries, observers; the rest comes out reordered."""
    model = toys.shared(family, kind)
    runner, rows, index = backend_of(model).runner, torch.tensor(toys.prompts(9, 9, 9, seed=4)), torch.tensor([2, 0])
    ivs = [
        static(scope=S.rows([0]) & S.generated(True)),
        static(2, 0, scope=S.after_token(int(rows[2, 3]))),
        gru(scope=S.from_position(2)),
        ms.Intervention(noisy(toy_adapters.PromptMlp(32, 32)), ms.Site(0, "mlp_out"), scope=S.window(4, 8)),
        drift(2),
        ms.Intervention(AlongTheSummary(), ms.Site(2), coeff=0.5),
    ]
    with torch.no_grad(), ms.steer(model, ivs, [6, 6, 6], record=True) as session:
        whole, _ = runner.forward(rows, None, None, use_cache=False)
        expected = session.readings[4]["drift"][0][index, 6:]
        _, cache = runner.forward(rows[:, :6], None, None, use_cache=True)
        runner.select_rows(cache, index)
        session.select_rows(index, cache)
        for i in range(6, 9):
            logits, cache = runner.forward(rows[index, i : i + 1], None, cache, use_cache=True)
            torch.testing.assert_close(logits[:, 0], whole[index, i], rtol=0, atol=5e-5)
        assert session.contexts[-1].rows.tolist() == [2, 0]
    torch.testing.assert_close(torch.cat(session.readings[4]["drift"][2:], 1), expected, rtol=0, atol=5e-5)


def test_states_of_any_make():
    index = torch.tensor([2, 0])
    state = {"a": torch.arange(3), "b": (torch.arange(6).reshape(3, 2), [None, 4, torch.tensor(5)])}
    chosen = select_rows(state, index)
    assert chosen["a"].tolist() == [2, 0]
    assert chosen["b"][0].tolist() == [[4, 5], [0, 1]]
    assert chosen["b"][1] == [None, 4, torch.tensor(5)]
    with pytest.raises(ConfigError, match=r"(?s)a state with a set.*override select_rows"):
        select_rows({1, 2}, index)
