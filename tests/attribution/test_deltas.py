"""The deltas that are recorded are those that the model saw."""

from __future__ import annotations

import pytest
import torch

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from tests.attribution.toy_adapters import PROMPTS, Linear, vector

CASES = (
    ("bridge-llama", "resid_post"),
    ("bridge-gpt2", "attn_out"),
    ("bridge-neox", "attn_out"),
    ("hooked-qwen3", "attn_out"),
    ("hooked-gpt2", "resid_post"),
    ("compat-gpt2", "attn_out"),
)


def captured(model, site: ms.Site, iv=()) -> torch.Tensor:
    """Right-padded activations of the prompts, one row at a time, by the model's own cache."""
    rows = []
    for prompt in PROMPTS:
        with ms.steer(model, iv):
            _, cache = model.run_with_cache(torch.tensor([prompt]))
        rows.append(cache[site.resolve(model)][0])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.parametrize(("kind", "point"), CASES)
def test_deltas_turn_the_clean_run_into_the_steered_one(model_of, kind, point):
    model = model_of(kind)
    site = ms.Site(1, point)
    iv = ms.Intervention(Linear(), site, scope=ms.TokenScope.from_position(1), coeff=0.7)
    d = ms.deltas(model, iv, PROMPTS, batch_size=3)
    clean, steered = captured(model, site), captured(model, site, iv)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(d.acts, clean, **close)
    torch.testing.assert_close(d.acts + d.values, steered, **close)
    torch.testing.assert_close(d.values[d.touched], 0.7 * d.acts[d.touched] @ iv.adapter.matrix.detach())
    assert float(d.values[~d.touched].abs().sum()) == 0
    assert d.touched.sum(1).tolist() == [len(p) - 1 for p in PROMPTS]
    assert d.mask.sum(1).tolist() == [len(p) for p in PROMPTS]
    assert d.tokens[0, :5].tolist() == PROMPTS[0]
    last = ms.Site(2, "resid_post")
    torch.testing.assert_close(d.final, captured(model, last), **close)
    torch.testing.assert_close(d.final_steered, captured(model, last, iv), **close)
    if kind != "bridge-neox":  # blocks in parallel have no stream between attention and MLP
        stream = site if point == "resid_post" else ms.Site(1, "resid_mid")
        torch.testing.assert_close(d.at().resid, captured(model, stream), **close)


def test_generated_scopes_need_text_to_touch(model_of):
    model = model_of("bridge-llama")
    iv = ms.Intervention(ms.adapters.Static(vector()), ms.Site(1), scope=ms.TokenScope.generated())
    with pytest.raises(DataError, match="touches no token"):
        ms.deltas(model, iv, PROMPTS)
    d = ms.deltas(model, iv, PROMPTS, continuations=[[1, 2], [3], [4, 5, 6], []])
    assert d.touched.sum(1).tolist() == [2, 1, 3, 0]
    torch.testing.assert_close(d.at().rows, vector().expand(6, -1))
    written = ms.deltas(model, iv, PROMPTS, max_new_tokens=3)
    out = ms.generate(model, PROMPTS, iv, max_new_tokens=3)
    rows = [row[keep].tolist() for row, keep in zip(written.tokens, written.mask, strict=True)]
    assert rows == [prompt + new for prompt, new in zip(PROMPTS, out.tokens, strict=True)]
    with pytest.raises(ConfigError, match="both"):
        ms.deltas(model, iv, PROMPTS, max_new_tokens=3, continuations=["a"] * 4)
    with pytest.raises(DataError, match="1 continuations for 4"):
        ms.deltas(model, iv, PROMPTS, continuations=["a"])


def test_several_sites_are_kept_apart_and_one_hook_adds_up(model_of):
    model = model_of("bridge-llama")
    early, late = ms.Site(0, "mlp_out"), ms.Site(1, "resid_post")
    three = [
        ms.Intervention(ms.adapters.Static(vector(2)), late),
        ms.Intervention(Linear(), early),
        ms.Intervention(ms.adapters.Static(vector(3)), late, scope=ms.TokenScope.last_prompt(), coeff=2.0),
    ]
    d = ms.deltas(model, ms.Steering(three, coeff=0.5), PROMPTS)
    assert d.sites == (early, late)
    with pytest.raises(ConfigError, match="resid_post@1"):
        _ = d.values
    part = d.at(late)
    assert bool((part.touched == d.mask).all())
    torch.testing.assert_close(part.values[0, 0], 0.5 * vector(2))
    torch.testing.assert_close(part.values[1, 1], 0.5 * vector(2) + vector(3))
    steered = captured(model, late, ms.Steering(three, coeff=0.5))
    torch.testing.assert_close(part.acts + part.values, steered, rtol=1e-4, atol=1e-4)


def test_enclosing_blocks_count_as_the_base(model_of):
    model = model_of("bridge-llama")
    outer = ms.Intervention(ms.adapters.Static(vector(4)), ms.Site(1))
    inner = ms.Intervention(Linear(), ms.Site(1))
    with ms.steer(model, outer):
        d = ms.deltas(model, inner, PROMPTS)
    torch.testing.assert_close(d.acts, captured(model, ms.Site(1), outer), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(d.acts + d.values, captured(model, ms.Site(1), [outer, inner]), rtol=1e-4, atol=1e-4)


def test_a_coefficient_of_zero_adds_zeros(model_of):
    iv = ms.Intervention(ms.adapters.Static(vector()), ms.Site(1), coeff=0)
    d = ms.deltas(model_of("bridge-llama"), iv, PROMPTS)
    assert float(d.values.abs().sum()) == 0
    assert bool((d.touched == d.mask).all())
