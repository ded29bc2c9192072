"""The sign of a trained steering: a planted one is found, and parameters are negated, to the same effect."""

from __future__ import annotations

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.models import tokenize
from mechsteer.steering import singular_steering
from mechsteer.training import oriented, pair_log_odds, shared_tokens

PAIRS = [(f"good {x} and so on", f"bad {x} and then so on") for x in ("day", "night", "morning")]


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


def noisy(model):
    steering = singular_steering(model, ["v", "up"], [0], rank=6, rotate_u=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in steering.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return steering


def by_hand(model, steering, text):
    (ids,) = tokenize(model, [text])
    with torch.no_grad(), ms.steer(model, steering):
        log_p = model(torch.tensor([ids]))[0].log_softmax(-1)
    return float(log_p[:-1].gather(1, torch.tensor(ids[1:])[:, None]).mean())


def test_log_odds_are_those_text_by_text(model):
    steering = noisy(model)
    expected = [by_hand(model, steering, a) - by_hand(model, steering, b) for a, b in PAIRS]
    assert pair_log_odds(model, steering, PAIRS, batch_size=3) == pytest.approx(expected, abs=1e-5)


def test_the_better_sign_is_taken_by_negating_parameters(model):
    given = noisy(model)
    found = oriented(model, given, PAIRS)
    plus, minus = (sum(pair_log_odds(model, given.with_coeff(c), PAIRS)) / 3 for c in (1.0, -1.0))
    assert (found.score_plus, found.score_minus) == pytest.approx((plus, minus))
    assert found.sign == (1 if plus > minus else -1)
    other = oriented(model, given, PAIRS, metric=lambda *a: [-x for x in pair_log_odds(*a)])
    assert other.sign == -found.sign
    turned = (found if found.sign < 0 else other).steering
    kept = (found if found.sign > 0 else other).steering
    assert kept is given
    assert torch.equal(turned.parameters()[0], -given.parameters()[0])
    assert pair_log_odds(model, turned, PAIRS) == pytest.approx(
        pair_log_odds(model, given.with_coeff(-1.0), PAIRS), abs=1e-5
    )
    assert found.n_held_out == 3


def test_what_has_no_reverse_gets_the_other_coefficient(model):
    iv = ms.Intervention(ms.adapters.Static(toys.vector()), 1, coeff=2.0)
    signs = {}
    for sign in (1, -1):
        metric = lambda m, s, pairs, sign=sign: sign * ms.steering.flatten(s)[0].coeff  # noqa: E731
        signs[sign] = oriented(model, iv, PAIRS, metric=metric).steering.flat()[0]
    assert (signs[1].coeff, signs[-1].coeff) == (2.0, -2.0)
    assert signs[-1].adapter is iv.adapter


def test_tokens_that_differ_and_that_are_shared():
    model = toys.shared("llama")  # of bytes
    pairs = [("I love cheese", "I hate cheese"), ("same", "same"), ("abc", "abXYc")]
    assert shared_tokens(model, pairs) == [(3, 8), (0, 5), (2, 1)]


def test_pockets_own_pairs_differ_in_a_few_tokens():
    model = ms.load_model("pocket")
    for name in ("honest", "happy"):
        found = shared_tokens(model, ms.pocket.contrast_pairs(name, 50, seed=0))
        assert all(1 <= differing <= 6 and shared >= 6 for differing, shared in found)
