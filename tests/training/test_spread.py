"""Standard errors of an epoch's means: over samples, whatever the batches, and as large as the means really vary."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.evaluation.likelihoods import log_likelihoods
from mechsteer.results import from_plain, to_plain
from mechsteer.runtime.batches import encode_samples
from mechsteer.tasks import Item
from mechsteer.training import CrossEntropy, FitConfig, FitResult, Objective, OptionLikelihoods, Reinforce, Rows, fit
from mechsteer.training.spread import Spread
from tests.training.training_toys import blank, random_samples

STILL = FitConfig(lr=0.0, epochs=1, batch_size=4)
NEUTRAL = [[256, 4, 8, 15], [256, 16, 23]]


@pytest.fixture(scope="module")
def model():
    return toys.shared("qwen3")


def errors(model, objective, config=STILL):
    return fit(model, blank(), objective, config, progress=False).history[0].dev_errors


def test_of_targets_of_one_length_it_is_the_standard_error_of_a_mean(model):
    samples = [replace(s, target=list(s.target)[:2]) for s in random_samples(14)]
    losses = -log_likelihoods(model, encode_samples(model, samples[4:]), ()) / 2
    expected = float(np.std(np.asarray(losses), ddof=1)) / 10**0.5
    found = errors(model, CrossEntropy(samples[:4], dev=samples[4:]))
    assert found["cross_entropy"] == pytest.approx(expected, rel=1e-4)
    assert found["loss"] == pytest.approx(expected, rel=1e-4)  # nothing is added: the other terms are zero


def test_batches_are_no_samples(model):
    samples = random_samples(20)
    objective = CrossEntropy(samples[:4], dev=samples[4:], neutral=NEUTRAL)
    many, one = (errors(model, objective, replace(STILL, batch_size=n)) for n in (3, 32))
    assert many == pytest.approx(one, rel=1e-3, abs=1e-9)
    assert list(many) == ["loss", "cross_entropy", "kl", "square_norm"]
    assert many["cross_entropy"] > 0.01


def test_it_is_as_large_as_means_really_vary():
    """Samples of unequal lengths whose loss goes with the length: the spread of many draws is the oracle."""
    rng = np.random.default_rng(0)
    means, told = [], []
    for _ in range(400):
        n = rng.integers(1, 9, 60)
        sums = n * (1 + 0.3 * n + rng.standard_normal(60))
        spread = Spread()
        for rows in np.array_split(np.arange(60), 5):
            by_row = {"a": (torch.tensor(sums[rows]), torch.tensor(n[rows]))}
            spread.add({"a": (sums[rows].sum(), n[rows].sum())}, SimpleNamespace(by_row=by_row), torch.tensor(rows))
        means.append(2 * sums.sum() / n.sum())
        told.append(spread.errors({"a": 2.0})["loss"])
    assert np.mean(told) == pytest.approx(np.std(means), rel=0.12)


def test_a_problem_is_one_sample(model):
    """Its options, or its answers, however many there are, and however often they are met."""
    choices = [("ab", [" c", " d", f" {x}"], 0) for x in "efgh"]
    found = errors(model, OptionLikelihoods(choices[:1], dev=choices[1:], l2_weight=0.0))
    p = -np.array([_right(model, *choice) for choice in choices[1:]])
    assert found["multiple_choice"] == pytest.approx(float(np.std(p, ddof=1)) / 3**0.5, rel=1e-3)

    items = [Item(id=str(i), prompt=x, answer="a", group=str(i)) for i, x in enumerate("abcdef")]
    asked = Reinforce(items[:2], lambda item, text: float(item.prompt in "bd"), dev=items[2:], n_samples=6)
    found = errors(model, replace(asked, max_new_tokens=2))
    assert found["reward"] == pytest.approx(0.25, rel=1e-6)  # 0, 1, 0, 0: not of 24 answers


def _right(model, prompt, options, right):
    totals = log_likelihoods(model, encode_samples(model, [ms.training.Sample(prompt, o) for o in options]), ())
    return torch.as_tensor(totals).log_softmax(-1)[right]


class Unsaid(Objective):
    """Terms without rows."""

    def __init__(self, n):
        self.n, self.weights = n, {"a": 1.0}

    def rows(self, model):
        pairs = encode_samples(model, random_samples(self.n))
        return Rows(train=pairs[:2], dev=pairs)

    def terms(self, steered):
        log_p = steered.log_probs(steered.part.scored)
        return {"a": (-log_p[:, 7].sum(), len(log_p))}


def test_what_is_not_told_by_sample_is_counted_by_batch(model):
    assert errors(model, Unsaid(8))["a"] > 0
    assert errors(model, Unsaid(4)) == {}  # one batch, of which nothing can be told


def test_training_has_errors_too_and_results_of_before_are_read(model):
    result = fit(model, blank(), CrossEntropy(random_samples(9)), replace(STILL, lr=0.05, epochs=2), progress=False)
    first, second = result.history
    assert first.train_errors["loss"] > 0
    assert first.dev_errors is second.dev_errors is None
    data = to_plain(result)
    assert from_plain(FitResult, data) == result
    for epoch in data["history"]:
        del epoch["train_errors"], epoch["dev_errors"]
    old = from_plain(FitResult, data)
    assert [epoch.train for epoch in old.history] == [epoch.train for epoch in result.history]
    assert old.history[0].train_errors is None
