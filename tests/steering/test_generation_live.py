"""A run that is watched, recorded and stopped: `on_token`, `record` and `stop`, on every engine."""

import threading

import pytest
import steering_toys
import torch
import toys
from contract.examples import Recurrent, WithConfig
from steering_toys import varied_stops

import mechsteer as ms
from mechsteer.adapters import Static
from mechsteer.errors import ConfigError
from mechsteer.results import from_json, to_json
from mechsteer.tokens import continuation_text

S = ms.TokenScope
PROMPTS = toys.prompts(3, 8, 12, 5)
NEW = 8
ENGINES = {
    "twin": ("llama", "bridge"),
    "bridge": ("neox", "bridge"),
    "bridge-compatibility": ("qwen3", "compatibility"),
    "hooked": ("gpt2", "hooked"),
}


def static(scope=None, seed=1, layer=1, coeff=0.05):
    return ms.Intervention(Static(toys.vector(seed)), ms.Site(layer, "resid_post"), scope=scope, coeff=coeff)


class Gated(WithConfig):
    """A vector opened by a gate per token, which is noted, and so is a pair of values."""

    linear_in_coeff, identity_at_init = True, False

    def __init__(self, d_model: int = toys.D_MODEL) -> None:
        super().__init__(d_model)
        self.weight, self.vector = torch.nn.Parameter(toys.vector(5)), torch.nn.Parameter(toys.vector(6))

    def delta(self, acts, state, coeff, ctx):
        gate = torch.sigmoid(acts @ self.weight / 4)
        ctx.note("gate", gate)
        ctx.note("pair", torch.stack([gate, 1 - gate], -1))
        return coeff * gate[..., None] * self.vector, state


class Remembering(Recurrent):
    """A recurrent adapter that notes a value of its state."""

    def delta(self, acts, state, coeff, ctx):
        delta, state = super().delta(acts, state, coeff, ctx)
        ctx.note("memory", delta[..., 0])
        return delta, state


def watched(model, prompts=PROMPTS, ivs=(), **options):
    steps: list[ms.generation.Step] = []
    return ms.generate(model, prompts, ivs, on_token=steps.append, **options), steps


# -- on_token --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_steps_add_up_to_the_result(engine, batch_size):
    model = toys.shared(*ENGINES[engine])
    free = ms.generate(model, PROMPTS, static(), max_new_tokens=NEW, stop_tokens=()).tokens
    options = {"max_new_tokens": NEW, "stop_tokens": varied_stops(free), "batch_size": batch_size}
    out, steps = watched(model, ivs=static(), **options)
    assert out == ms.generate(model, PROMPTS, static(), **options)
    for row in range(len(PROMPTS)):
        of_row = [(step, step.rows.index(row)) for step in steps if row in step.rows]
        assert [step.tokens[k] for step, k in of_row] == out.tokens[row]
        assert [step.index for step, _ in of_row] == list(range(len(out.tokens[row])))
        assert [step.texts[k] for step, k in of_row][-1:] == [out.texts[row]] * bool(out.tokens[row])
        assert [step.index for step in steps if row in step.stopped] == [len(out.tokens[row])] * out.stopped[row]
    assert all(step.readings == () for step in steps)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_on_token_raises_ends_the_run(engine):
    model, seen = toys.shared(*ENGINES[engine]), []
    before = model(torch.tensor(PROMPTS[:1]))

    def fail(step):
        seen.append(step)
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        ms.generate(model, PROMPTS, static(), on_token=fail, stop_tokens=())
    assert len(seen) == 1
    assert toys.hooks_left(model) == 0
    assert torch.equal(model(torch.tensor(PROMPTS[:1])), before)


@pytest.mark.parametrize("engine", ENGINES)
def test_on_token_runs_in_the_context_of_the_caller(engine):
    """The model it calls is steered by the block around the call, not by the call; gradients are possible."""
    model, outer, tokens = toys.shared(*ENGINES[engine]), static(seed=2, layer=0), torch.tensor(PROMPTS[:1])
    inside, texts = [], []
    with ms.steer(model, outer):
        expected = model(tokens)

        def look(step):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            inside.append(model(tokens))
            texts.append(ms.generate(model, PROMPTS[:1], max_new_tokens=3, stop_tokens=()).tokens)

        out = ms.generate(model, PROMPTS, static(), on_token=look, max_new_tokens=3, stop_tokens=())
        assert texts[0] == ms.generate(model, PROMPTS[:1], max_new_tokens=3, stop_tokens=()).tokens
        assert out == ms.generate(model, PROMPTS, static(), max_new_tokens=3, stop_tokens=())
    assert len(inside) == 3
    assert all(torch.equal(logits, expected) for logits in inside)


# -- stop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_stop_ends_a_run_between_two_steps(engine):
    model, asked = toys.shared(*ENGINES[engine]), []
    free = ms.generate(model, PROMPTS, static(), max_new_tokens=NEW, stop_tokens=())

    def enough():
        asked.append(None)
        return len(asked) > 3

    out = ms.generate(model, PROMPTS, static(), max_new_tokens=NEW, stop_tokens=(), stop=enough)
    assert out.tokens == [row[:3] for row in free.tokens]
    assert out.texts == [continuation_text(model.tokenizer, row) for row in out.tokens]
    assert (out.interrupted, free.interrupted) == (True, False)
    assert not any(out.stopped)
    assert toys.hooks_left(model) == 0


def test_an_event_ends_the_batches_to_come_too():
    model, event = toys.shared("llama"), threading.Event()
    out = ms.generate(
        model, PROMPTS, max_new_tokens=NEW, stop_tokens=(), batch_size=2, stop=event, on_token=lambda _: event.set()
    )
    assert out.interrupted
    assert [len(row) for row in out.tokens] == [1, 0, 0, 1]  # batches go by length


def test_stop_before_and_after():
    model, event = toys.shared("llama"), threading.Event()
    done = ms.generate(model, PROMPTS, max_new_tokens=1, stop=event, stop_tokens=(), on_token=lambda _: event.set())
    assert not done.interrupted  # it was over anyway
    none = ms.generate(model, PROMPTS, static(), stop=event, record=True)
    assert none.interrupted
    assert none.tokens == [[]] * 4
    assert none.texts == [""] * 4
    with pytest.raises(ConfigError, match="stop is 'now'"):
        ms.generate(model, PROMPTS, stop="now")


# -- record ----------------------------------------------------------------------------------------------------


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "adapter", [Gated, lambda: steering_toys.noisy(Remembering(toys.D_MODEL))], ids=["gated", "recurrent"]
)
def test_readings_are_the_same_by_every_route(engine, adapter):
    """Cached, uncached, in batches, with rows that leave, alone; and those of one plain forward over the whole text."""
    model = toys.shared(*ENGINES[engine])
    ivs = [static(S.generated()), ms.Intervention(adapter(), ms.Site(2, "resid_post"), coeff=0.05)]
    free = ms.generate(model, PROMPTS, ivs, max_new_tokens=NEW, stop_tokens=()).tokens
    options = {"max_new_tokens": NEW, "stop_tokens": varied_stops(free), "record": True}
    out = ms.generate(model, PROMPTS, ivs, **options)
    assert out.engine == engine
    assert len({len(row) for row in out.tokens}) > 1
    ends = [len(p) + len(new) for p, new in zip(PROMPTS, out.tokens, strict=True)]
    routes = [
        ms.generate(model, PROMPTS, ivs, use_cache=False, **options),
        ms.generate(model, PROMPTS, ivs, batch_size=2, **options),
    ]
    alone = [ms.generate(model, [prompt], ivs, **options) for prompt in PROMPTS]
    assert all(other.tokens == out.tokens for other in routes)
    for i, names in enumerate(out.readings):
        assert "delta_norm" in names
        for name, values in names.items():
            assert values.shape[:2] == (len(PROMPTS), max(ends))
            assert values.dtype == torch.float32
            for other in routes:
                same(other.readings[i][name], values)
            for row, (prompt, new, end) in enumerate(zip(PROMPTS, out.tokens, ends, strict=True)):
                assert torch.isnan(values[row, end:]).all()
                same(alone[row].readings[i][name][0], values[row, :end])
                with torch.no_grad(), ms.steer(model, ivs, prompt_lengths=[len(prompt)], record=True) as session:
                    model(torch.tensor([prompt + new]))
                (whole,) = session.readings[i][name]
                assert whole is not None
                n = end if out.stopped[row] else end - 1  # nobody reads the last token of a row that may go on
                same(values[row, :n], whole[0, :n])
                assert torch.isnan(values[row, n:end]).all()


def test_the_norm_of_a_vector_is_where_its_scope_is():
    out = ms.generate(
        toys.shared("llama"),
        PROMPTS,
        static(S.generated(), coeff=-2.0),
        max_new_tokens=NEW,
        stop_tokens=(),
        record=True,
    )
    (readings,) = out.readings
    for row, prompt in enumerate(PROMPTS):
        norms, n = readings["delta_norm"][row], len(prompt)
        assert (norms[:n] == 0).all()
        torch.testing.assert_close(norms[n : n + NEW - 1], 2 * toys.vector(1).norm().expand(NEW - 1))


def test_readings_can_be_trained_on():
    out = ms.generate(toys.shared("llama"), PROMPTS, static(), max_new_tokens=3, stop_tokens=(), record=True)
    weight = torch.ones((), requires_grad=True)
    (out.readings[0]["delta_norm"][:, :3] * weight).sum().backward()
    assert float(weight.grad) > 0


def test_readings_are_those_of_the_call():
    """Numbered as it was given them: none for one without strength, none of an enclosing block's."""
    model = toys.shared("llama")
    ivs = [static(coeff=0.0), static(seed=3), ms.Intervention(Gated(), ms.Site(2, "resid_post"))]
    with ms.steer(model, static(seed=2, layer=0)):
        out = ms.generate(model, PROMPTS, ivs, max_new_tokens=3, stop_tokens=(), record=True)
    assert [sorted(names) for names in out.readings] == [[], ["delta_norm"], ["delta_norm", "gate", "pair"]]
    assert out.readings[2]["pair"].shape == (4, 15, 2)
    assert ms.generate(model, PROMPTS, ivs, max_new_tokens=3).readings == []


def test_a_recording_block_sees_the_generation():
    """The twin would pass it by."""
    model = toys.shared("llama")
    with ms.steer(model, static(), record=True) as session:
        out = ms.generate(model, PROMPTS, max_new_tokens=3, stop_tokens=())
    assert out.engine == "bridge"
    assert len(session.contexts) == 3
    assert out.tokens == ms.generate(model, PROMPTS, static(), max_new_tokens=3, stop_tokens=()).tokens


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_carry_readings(engine):
    """Each token with what was noted where it was decided."""
    model, iv = toys.shared(*ENGINES[engine]), ms.Intervention(Gated(), ms.Site(2, "resid_post"), coeff=0.05)
    free = ms.generate(model, PROMPTS, iv, max_new_tokens=NEW, stop_tokens=()).tokens
    for use_cache in (True, False):
        out, steps = watched(
            model, ivs=iv, max_new_tokens=NEW, stop_tokens=varied_stops(free), record=True, use_cache=use_cache
        )
        for step in steps:
            for name in ("gate", "pair", "delta_norm"):
                at = [len(PROMPTS[row]) + step.index - 1 for row in step.rows]
                same(step.readings[0][name], out.readings[0][name][list(step.rows), at])


def test_by_token():
    model = toys.shared("llama")
    out = ms.generate(model, ["hi there", "you"], static(S.generated()), max_new_tokens=4, stop_tokens=(), record=True)
    for row, shown in enumerate(out.by_token(model.tokenizer)):
        assert "".join(shown.tokens[: len(out.prompt_tokens[row])]) == "<s>" + ["hi there", "you"][row]
        assert shown.values.shape == (len(shown.tokens),) == (len(out.prompt_tokens[row]) + 4,)
        ms.report.Heatmap(shown.tokens, shown.values.numpy(), caption="delta").props()
    assert out.by_token(None)[1].tokens[0] == "256"
    with pytest.raises(ConfigError, match=r"(?s)no reading 'gate' of intervention 0.*\['delta_norm'\]"):
        out.by_token(None, "gate")
    with pytest.raises(ConfigError, match=r"(?s)no reading 'delta_norm'.*record=True"):
        ms.generate(model, ["you"], max_new_tokens=1).by_token(None)


def test_a_generation_goes_to_plain_data_and_comes_back():
    ivs = [static(coeff=0.0), ms.Intervention(Gated(), ms.Site(2, "resid_post"), scope=S.generated())]
    out = ms.generate(toys.shared("llama"), PROMPTS, ivs, max_new_tokens=3, stop_tokens=(), record=True)
    text = to_json(out)
    assert from_json(ms.generation.Generation, text) == out
    assert from_json(ms.generation.Generation, text.replace('"interrupted": false', '"interrupted": true')) != out
