"""A probe while the model writes: token by token equals one pass, the mean is that of the written tokens alone, files."""

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, ShapeError
from mechsteer.probes import LinearProbe, OnlineProbe

DIRECTION = toys.vector(3)


def observed(model, prompts, probe, **options):
    out = ms.generate(
        model, prompts, ms.Observation(probe, 1), max_new_tokens=6, record=True, stop_tokens=(), **options
    )
    return out, out.readings[0]["probe"]


@pytest.mark.parametrize("kind", toys.KINDS_HERE)
@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_streamed_scores_are_those_of_the_captured_states(kind, pooling):
    model, prompts = toys.load("llama", kind), toys.prompts(4, 9)
    out, scores = observed(model, prompts, OnlineProbe(DIRECTION, 0.5, pooling=pooling))
    rows = [[*prompt, *new] for prompt, new in zip(prompts, out.tokens, strict=True)]
    acts = ms.capture(model, rows, [1], drop_bos=False, progress=False)[1]
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        along = acts.values[i, : len(row)] @ DIRECTION
        if pooling == "token":
            expected = along[:-1] + 0.5
            torch.testing.assert_close(scores[i, : len(row) - 1], expected, rtol=1e-4, atol=1e-3)
            continue
        assert scores[i, : len(prompt)].isnan().all()
        written = along[len(prompt) : -1]
        expected = written.cumsum(0) / torch.arange(1, len(written) + 1) + 0.5
        torch.testing.assert_close(scores[i, len(prompt) : len(row) - 1], expected, rtol=1e-4, atol=1e-3)


def test_cached_equals_uncached_and_a_row_alone_equals_its_batch():
    model, prompts = toys.shared("llama"), toys.prompts(3, 8)
    probe = OnlineProbe(DIRECTION, pooling="mean", since="all")
    _, batch = observed(model, prompts, probe)
    _, uncached = observed(model, prompts, probe, use_cache=False)
    torch.testing.assert_close(batch, uncached, rtol=1e-4, atol=1e-3, equal_nan=True)
    _, alone = observed(model, prompts[:1], probe)
    torch.testing.assert_close(batch[0, :8], alone[0, :8], rtol=1e-4, atol=1e-3, equal_nan=True)
    assert batch[0, 0].isnan()  # the first token is a sink: no mean holds it


def test_it_reads_what_the_fitted_probe_reads():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, toys.D_MODEL))
    fitted = LinearProbe("ridge").fit(X, X[:, 0] > 0)
    online = OnlineProbe.of(fitted, output="probability")
    ctx = ms.runtime.context.Context.whole(60, 1)
    noted = {}
    ctx = type(ctx)(**{**ctx.__dict__, "readings": noted})
    online.observe(torch.from_numpy(X)[:, None], None, ctx)
    np.testing.assert_allclose(noted["probe"][:, 0].numpy(), fitted.predict_proba(X)[:, 1], atol=1e-5)


def test_it_streams_step_by_step():
    model, steps = toys.shared("llama"), []
    out = ms.generate(
        model,
        toys.prompts(5),
        ms.Observation(OnlineProbe(DIRECTION), 1),
        max_new_tokens=4,
        record=True,
        stop_tokens=(),
        on_token=steps.append,
    )
    streamed = torch.stack([step.readings[0]["probe"][0] for step in steps])
    torch.testing.assert_close(streamed, out.readings[0]["probe"][0, 4:8])


def test_it_changes_nothing_and_has_a_file(tmp_path):
    model, prompts = toys.load("llama"), toys.prompts(5)
    probe = OnlineProbe(DIRECTION, 0.25, pooling="mean", output="probability")
    out, scores = observed(model, prompts, probe)
    assert out.tokens == ms.generate(model, prompts, max_new_tokens=6, stop_tokens=()).tokens
    steering = ms.Steering([ms.Intervention(ms.adapters.Static(toys.vector()), 0), ms.Observation(probe, 1)], coeff=0.0)
    ms.save_steering(steering, tmp_path / "s.safetensors", model)
    again = ms.load_steering(tmp_path / "s.safetensors", model).interventions[1]
    assert type(again.observer) is OnlineProbe  # nobody registered it
    _, read = observed(model, prompts, again.observer)
    torch.testing.assert_close(read, scores, equal_nan=True)


def test_refusals():
    with pytest.raises(ShapeError, match=r"shape \[2, 3\]"):
        OnlineProbe(torch.zeros(2, 3))
    with pytest.raises(ConfigError, match="no 'max'"):
        OnlineProbe(DIRECTION, pooling="max")
    with pytest.raises(ConfigError, match="LinearProbe has no direction_"):
        OnlineProbe.of(LinearProbe())
    with pytest.raises(ConfigError, match="needs d_model"):
        OnlineProbe.blank({})
