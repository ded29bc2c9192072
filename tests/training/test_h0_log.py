"""The log of H0 entropy while something else is trained: exact, at one length, and without any influence."""

from __future__ import annotations

import statistics

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.report.sections import training as sections
from mechsteer.runtime.batches import Sample
from mechsteer.steering.presets import untrained
from mechsteer.topology import summarize
from mechsteer.training import CrossEntropy, FitConfig, H0Log, OpenRate, Separation, fit
from mechsteer.training.objectives.base import Tally
from mechsteer.training.parts import Forwards
from tests.training.training_toys import GENERATED, blank, state

LENGTHS = (12, 9, 8, 5, 11, 10)


def samples():
    rows = torch.randint(0, 250, (len(LENGTHS), 20), generator=torch.Generator().manual_seed(2)).tolist()
    return [Sample([256, *row[: 2 + n % 3]], row[5 : 5 + n]) for row, n in zip(rows, LENGTHS, strict=True)]


def objective(**changes):
    return CrossEntropy(samples(), **{"dev": samples(), "kl_weight": 0.0, "l2_weight": 0.0} | changes)


def controller(size=0.0):
    """What it writes differs from token to token; nothing for a size of 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        iv = untrained(toys.shared("llama"), "gru", ms.Site(0), scope=GENERATED, d_input=12, d_hidden=12, rank=4)
        torch.nn.init.normal_(iv.adapter.decoder.written, std=size)
    return iv


def exact(iv, n_points):
    """By sample that is long enough: the entropy of its first target tokens, of a capture under the steering."""
    model, found = toys.shared("llama"), []
    for sample in samples():
        row, n = [*sample.prompt, *sample.target], len(sample.prompt)
        acts = ms.capture(model, [row], [iv.site], interventions=iv, prompt_lengths=[n], progress=False)[iv.site]
        if len(sample.target) >= n_points:
            found.append(summarize(acts.values[0, n : n + n_points], dims=(0,)).h0.entropy_nats)
    return found


@pytest.mark.parametrize(("asked", "n_points", "n_long"), [(6, 6, 5), (8, 8, 5), (32, 8, 5)])
def test_the_term_is_the_exact_entropy_of_the_steered_trajectory_at_one_length(asked, n_points, n_long):
    model, iv = toys.shared("llama"), controller(size=3.0)
    config = FitConfig(batch_size=4)
    log = H0Log(objective(), n_points=asked).prepared(model, config)
    assert log.identity()["h0_points"] == n_points
    parts, forwards = log.parts(model, [iv], config).dev, Forwards(model, [iv], config)
    tally = Tally({}, {})
    for part in parts:
        tally += Tally.of(log.terms(forwards.steered(part)), log.weights).detached()
    expected, as_it_is = exact(iv, n_points), exact(controller(), n_points)
    assert tally.counts["h0_entropy"] == len(expected) == n_long
    assert tally.summary(log.weights)["h0_entropy"] == pytest.approx(statistics.mean(expected), rel=1e-5)
    assert abs(statistics.mean(expected) - statistics.mean(as_it_is)) > 1e-3


def test_it_is_in_the_history_and_moves_nothing():
    model, config = toys.shared("llama"), FitConfig(lr=0.05, epochs=3, batch_size=4)
    plain = fit(model, controller(), OpenRate(objective()), config, progress=False)
    logged = fit(model, controller(), H0Log(OpenRate(objective()), n_points=8), config, progress=False)
    assert all(map(torch.equal, state(plain), state(logged)))
    before, *_, after = logged.history
    assert before.dev["h0_entropy"] == pytest.approx(statistics.mean(exact(controller(), 8)), rel=1e-5)
    (trained,) = logged.steering.interventions
    if logged.best_epoch == after.epoch:
        assert after.dev["h0_entropy"] == pytest.approx(statistics.mean(exact(trained, 8)), rel=1e-5)
    assert after.dev["h0_entropy"] != before.dev["h0_entropy"]
    assert after.dev_errors["h0_entropy"] == pytest.approx(statistics.stdev(exact(trained, 8)) / 5**0.5, rel=0.05)
    assert {name: epoch.dev[name] for epoch in logged.history for name in plain.history[0].dev} == {
        name: epoch.dev[name] for epoch in plain.history for name in epoch.dev
    }


def test_the_report_draws_it_beside_the_length():
    log = H0Log(objective(), n_points=8)
    result = fit(toys.shared("llama"), controller(), log, FitConfig(epochs=1), progress=False)
    (figure,) = sections.entropies(result)
    assert "first 8 target tokens" in figure.caption
    assert f"dev h0_entropy from {result.history[0].dev['h0_entropy']:.3g}"[:26] in figure.alt
    plain = fit(toys.shared("llama"), controller(), objective(), FitConfig(epochs=1), progress=False)
    assert sections.entropies(plain) == []


def test_what_has_no_shape_is_refused():
    short = [Sample(sample.prompt, sample.target[:2]) for sample in samples()]
    with pytest.raises(DataError, match="one in four samples has 2 target tokens or fewer"):
        fit(toys.shared("llama"), controller(), H0Log(CrossEntropy(short)), FitConfig(epochs=1), progress=False)
    with pytest.raises(ConfigError, match="is not one trajectory"):
        fit(toys.shared("llama"), [blank(0), blank(1)], H0Log(objective()), FitConfig(epochs=1), progress=False)
    with pytest.raises(ConfigError, match="n_points is 2"):
        H0Log(objective(), n_points=2)


def test_what_is_around_an_objective_leaves_its_samples_and_sites_to_it():
    pairs = [("a b a", "a c a"), ("b b a", "b c a"), ("c b a", "c d a"), ("d a b", "d b b")]
    inner = Separation(pairs, dev=pairs)
    around = OpenRate(inner)
    model, iv = toys.shared("llama"), controller()
    assert around.reads(model) == inner.reads(model)
    part = inner.prepared(model, FitConfig()).parts(model, [iv], FitConfig()).dev[0]
    assert torch.equal(around.samples_of(part), inner.samples_of(part))
