"""What analyses/topological_drift reckons with: ranks of planted trajectories, findings of planted scores, multiply-adds counted."""

import math
import sys
from types import SimpleNamespace

import common
import numpy as np
import pytest
import torch
import toys
import verify
from common import Cells, Finding

from mechsteer.errors import ConfigError
from mechsteer.evaluation import Scored
from mechsteer.evaluation.before_after import topology_before_after
from mechsteer.models.sites import Site
from mechsteer.runtime.scopes import TokenScope
from mechsteer.signals import WindowedH0
from mechsteer.steering.interventions import Steering, writing
from mechsteer.steering.presets import untrained
from mechsteer.topology import summarize

FOLDER = common.HERE / "topological_drift"
sys.path.insert(0, str(FOLDER))

import drift_claims  # noqa: E402
import drift_found  # noqa: E402
import drift_makes  # noqa: E402
import drift_observed  # noqa: E402
import drift_traces  # noqa: E402

SETTINGS = {"n_points": 8, "n_boot": 40}


def on_a_line(spread, seed, n=20):
    """Tokens one after the other on a line: the spanning tree's edges are the steps."""
    rng = np.random.default_rng(seed)
    steps = np.exp(spread * rng.normal(size=n))
    return torch.tensor(np.outer(steps.cumsum(), [0.6, 0.8, 0.0])).float()


def ranks():
    spreads = np.linspace(0.1, 2.0, 48)
    acts = [on_a_line(spread, seed) for seed, spread in enumerate(spreads)]
    noise = np.random.default_rng(0).normal(size=48)
    correct = [bool(spread + 0.5 * e > 1) for spread, e in zip(spreads, noise, strict=True)]
    groups = [str(i % 12) for i in range(48)]
    found = drift_observed.signal_ranks(acts, correct, groups, SETTINGS, limit=100)
    return {each.name: each for each in found}


def test_on_a_line_the_steps_are_the_topology():
    found = ranks()
    steps, exact = found["step_entropy"].correlation, found["h0_entropy"].correlation
    assert steps.value == pytest.approx(1.0, abs=1e-3)
    assert exact.value == pytest.approx(1.0)
    assert steps.low <= steps.value <= steps.high
    assert abs(found["coherence"].correlation.value) < 0.7  # a line does not turn


def test_uneven_steps_were_planted_as_right():
    effect = ranks()["step_entropy"].effect
    assert effect is not None
    assert effect.high < 0  # low entropy, right


def test_short_traces_are_left_out():
    short = [on_a_line(1.0, seed, n=5) for seed in range(3)]
    acts = [*short, *(on_a_line(s, i) for i, s in enumerate(np.linspace(0.1, 2, 24)))]
    found = drift_observed.signal_ranks(
        acts, [i % 2 == 0 for i in range(27)], [str(i) for i in range(27)], SETTINGS, limit=100
    )
    assert all(math.isfinite(each.correlation.value) for each in found)


def test_means_are_of_full_windows():
    points = torch.tensor(np.random.default_rng(3).normal(size=(11, 3))).float()
    exact = [summarize(points[i : i + 8], dims=(0,)).h0.entropy_nats for i in range(4)]
    assert drift_observed._mean(WindowedH0(8), points, 8) == pytest.approx(np.mean(exact), rel=1e-5)


def detected(value):
    score = SimpleNamespace(value=value, low=value - 0.098, high=value + 0.098)
    return SimpleNamespace(shares=[SimpleNamespace(shape_within=score)])


def test_deeper_is_the_later_half_less_the_earlier():
    own = SimpleNamespace(whole=[detected(v) for v in (0.5, 0.6, 0.99, 0.8, 0.9)])  # the middle one is in neither
    found = drift_traces.deeper(own, [])
    assert found.value == pytest.approx(0.3)
    assert found.high - found.value == pytest.approx(1.96 * math.hypot(0.05, 0.05), rel=1e-6)


N = 40
ACCURACY = {
    drift_makes.CONTROLLER: 26,
    drift_makes.WITH_TOPOLOGY: 22,
    drift_makes.PER_LAYER: 24,
    drift_makes.RANDOM: 18,
}


def of(n_right):
    return Scored(scores=np.arange(N) < n_right, groups=tuple(map(str, range(N))))


class Shop:
    """Planted: of 40 problems base solves 20, the controller 26; no static vector diverges as much."""

    seeds = range(5)
    settings = {"topology_seeds": 3, "open_rate": 0.15}  # noqa: RUF012
    model, prompts = toys.shared("qwen3"), [[1, 2, 3]]

    def base(self):
        return of(20)

    def teacher(self):
        return of(36)

    def scored(self, name, seed):
        return None if name == drift_makes.ONE else of(ACCURACY[name])

    def gate(self, name, seed):
        return 0.12 + 0.01 * seed

    def strength(self, name, seed):
        return math.nan if name == drift_makes.ONE else 1.0

    def divergence(self, name, seed):
        return 0.05

    def start(self, name, seed):
        sizes = {"d_input": 4, "d_hidden": 4}
        return Steering(untrained(self.model, "gru", Site(0), scope=TokenScope.all(), **sizes))

    def change(self, name, seed):
        rng = np.random.default_rng(seed)
        before = [torch.tensor(rng.normal(size=(12, 3))).float() for _ in range(6)]
        uneven = torch.tensor(1.7 ** np.arange(12))[:, None].float()  # one long edge after the other
        return topology_before_after(before, [points * uneven for points in before], site="x", n_points=8)


def test_the_controller_is_held_against_every_rival():
    findings, tables, figures = drift_found.steered(Shop())
    assert findings["controller helps"].value == pytest.approx(6 / 40)
    assert findings["beats vectors"].value == pytest.approx(2 / 40)
    assert findings["beats random"].value == pytest.approx(8 / 40)
    assert findings["topology loss helps"].value == pytest.approx(-4 / 40)
    assert findings["topology loss helps"].n_seeds == 3
    assert math.isnan(findings["beats one vector"].value)  # its divergence is out of reach
    assert findings["opens seldom"].value == pytest.approx(0.14)
    assert findings["entropy falls"].high < 0
    assert "the teacher solves 0.900" in findings["controller helps"].words
    assert figures["accuracy"] == pytest.approx((0.5, 0.65))
    assert figures["entropy"][1] < figures["entropy"][0]
    arms = {row["arm"]: row for row in tables["Accuracy on held-out problems"]}
    assert math.isnan(arms["static"]["accuracy"])
    assert arms["bias_only"]["accuracy"] == pytest.approx(0.6)


def test_overhead_is_the_controllers_matrices_and_signals():
    shop = Shop()
    found, size, there = drift_found.overhead(shop)
    adapter = writing(shop.start("controller", 0))[0].adapter
    matrices = sum(p.numel() for p in adapter.parameters() if p.ndim > 1)
    tokens = torch.tensor([shop.prompts[0][:1] * drift_found.N_COUNTED])
    model = drift_found._products(shop.model, tokens, None) / drift_found.N_COUNTED
    expected = (matrices + drift_found.SIGNAL_OPS * shop.model.cfg.d_model) / model
    assert found.value == pytest.approx(expected)
    assert f"{sum(p.numel() for p in adapter.parameters()):,}" in size
    assert "0.1" in there  # per cent, of a model six hundred times as large


def test_beside_a_controller_that_learnt_nothing_a_vector_is_nothing():
    shop = object.__new__(drift_makes.Workshop)
    shop.divergence = lambda name, seed: 0.0
    assert shop.strength(drift_makes.ONE, 0) == 0.0
    assert shop.strength(drift_makes.CONTROLLER, 0) == 1.0


def test_nothing_trained_is_not_run():
    findings, tables, figures = drift_found.untrained(Shop())
    measured = {key for key, finding in findings.items() if math.isfinite(finding.value)}
    assert measured == {"overhead"}
    assert findings["controller helps"].null == "not run: controller=false"
    rows = drift_claims.parity(findings, figures)
    assert rows[0]["here"].startswith("not run")
    assert not tables


def test_a_file_needs_a_model_that_reads_it(tmp_path):
    settings, _ = common.resolve(FOLDER, ["quick=true", "solutions=some.jsonl"])
    with pytest.raises(ConfigError, match=r"solutions is 'some\.jsonl', solutions_model ''"):
        verify.load(FOLDER).measure(settings, Cells(tmp_path))


def test_the_parity_table_names_every_target():
    finding = Finding(value=0.5, low=0.25, high=0.75, n_seeds=5, null="")
    figures = {"accuracy": (0.5, 0.6), "entropy": (2.6, 2.5), "raw entropy": (3.5, 3.6), "overhead there": "0.1 %"}
    rows = drift_claims.parity({claim.key: finding for claim in drift_claims.CLAIMS}, figures)
    told = " ".join(row["published"] for row in rows)
    assert all(target in told for target in ("63.3", "70 %", "3.41", "3.2", "3.83", "3.5", "10 %"))
    assert rows[0]["here"] == "0.500 to 0.600, 0.500 [0.250, 0.750]"


def test_the_readme_has_the_parity_table_of_the_answer():
    text = (FOLDER / "README.md").read_text("utf-8")
    answer = common.read_answer(FOLDER / "answer.json")
    for row in answer.figures["Beside the published targets"]:
        assert f"| {row['figure']} | {row['published']} | {row['here']} |" in text
