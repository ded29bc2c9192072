"""top-k and top-p against transformers' own processors, and what is drawn from what they leave."""

from __future__ import annotations

import pytest
import torch
import toys
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import mechsteer as ms
from mechsteer.errors import ConfigError
from mechsteer.steering.decoding import distribution

PROMPTS = toys.prompts(3, 8, 12, 5)
CASES = [(None, None), (5, None), (1, None), (500, None), (None, 0.6), (None, 1.0), (None, 1e-6), (20, 0.8), (3, 0.3)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize(("top_k", "top_p"), CASES)
def test_the_distribution_is_that_of_transformers(top_k, top_p, temperature):
    logits = 3 * torch.randn(6, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    scores = scores if top_k is None else TopKLogitsWarper(top_k)(None, scores)
    scores = scores if top_p is None else TopPLogitsWarper(top_p)(None, scores)
    found = distribution(logits, temperature, top_k=top_k, top_p=top_p)
    torch.testing.assert_close(found / found.sum(-1, keepdim=True), scores.softmax(-1), rtol=1e-9, atol=1e-15)
    if top_k == 5:
        assert (found > 0).sum(-1).tolist() == [5] * 6
    if top_p == 0.6:
        assert 1 < int((found > 0).sum(-1).max()) < 100


def test_what_is_cut_off_is_never_drawn_and_the_rest_by_its_share():
    model, options = toys.shared("qwen3"), {"temperature": 0.7, "top_k": 6, "top_p": 0.8}
    out = ms.generate(
        model,
        [PROMPTS[0]] * 4000,
        max_new_tokens=1,
        generator=torch.Generator().manual_seed(0),
        stop_tokens=(),
        **options,
    )
    with torch.no_grad():
        p = distribution(model(torch.tensor([PROMPTS[0]]))[:, -1], **options)[0]
    p = p / p.sum()
    counts = torch.bincount(torch.tensor(out.tokens)[:, 0], minlength=len(p))
    assert 1 < int((p > 0).sum()) <= 6
    assert not counts[p == 0].any()
    assert ((counts / 4000 - p).abs() <= 5 * (p * (1 - p) / 4000).sqrt()).all()


def test_a_row_draws_the_same_in_any_batch():
    model, seeded = toys.shared("qwen3"), lambda: torch.Generator().manual_seed(3)
    options = {"max_new_tokens": 8, "temperature": 1.5, "top_k": 40, "top_p": 0.9, "stop_tokens": ()}
    together = ms.generate(model, PROMPTS, generator=seeded(), **options).tokens
    assert together == ms.generate(model, PROMPTS, generator=seeded(), batch_size=1, **options).tokens
    assert together == ms.generate(model, PROMPTS, generator=seeded(), use_cache=False, **options).tokens
    free = options | {"top_k": None, "top_p": None}
    assert together != ms.generate(model, PROMPTS, generator=seeded(), **free).tokens
    whole = options | {"top_k": 10**6, "top_p": 1.0}
    assert (
        ms.generate(model, PROMPTS, generator=seeded(), **whole).tokens
        == ms.generate(model, PROMPTS, generator=seeded(), **free).tokens
    )


def test_one_token_left_is_the_greedy_one():
    model = toys.shared("llama")
    greedy = ms.generate(model, PROMPTS, max_new_tokens=6, stop_tokens=()).tokens
    for option in ({"top_k": 1}, {"top_p": 1e-9}):
        assert ms.generate(model, PROMPTS, max_new_tokens=6, stop_tokens=(), temperature=2.0, **option).tokens == greedy


def test_the_last_number_below_one_draws_a_token_that_was_kept():
    """1 - 2**-53 times a total below 1 rounds to the total itself, which no token's sum is above."""
    p = distribution(torch.tensor([[0.0, 1.0, 2.0, -9.0]]), 1.0, top_k=2)
    how = ms.steering.decoding.Decoding(
        max_new_tokens=1, temperature=1.0, top_k=2, stop_tokens=frozenset(), pad=0, use_cache=True, halted=lambda: False
    )
    for u in (0.0, 1 - 2**-53, 1.0):
        token = ms.steering.decoding._pick(torch.tensor([[0.0, 1.0, 2.0, -9.0]]), how, torch.tensor([u]).double())
        assert p[0, int(token)] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 3}, "do nothing where the likeliest token is taken"),
        ({"top_p": 0.9}, r"give a temperature, such as temperature=1\.0"),
        ({"top_k": 0, "temperature": 1.0}, "top_k=0"),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p=0.0"),
        ({"top_p": 1.1, "temperature": 1.0}, "it is a share above 0, at most 1"),
        ({"temperature": -1.0}, "temperature=-1.0"),
    ],
)
@pytest.mark.parametrize("call", [ms.generate, ms.stream])
def test_settings_that_cannot_be_are_refused(call, options, message):
    with pytest.raises(ConfigError, match=message):
        call(toys.shared("llama"), PROMPTS, **options)
