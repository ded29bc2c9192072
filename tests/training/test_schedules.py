"""The course of the learning rate is what it is called, and a killed run goes on along it to the same bytes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import toys
from booster_toys import perturbed

import mechsteer as ms
from mechsteer.adapters import Adapter
from mechsteer.errors import ConfigError
from mechsteer.training import FitConfig, fit
from tests.training.training_toys import blank, killed_in_step, random_samples, state

STEPS = 12  # 3 epochs of 4 batches


@pytest.fixture(scope="module")
def model():
    return toys.shared("qwen3")


def rates(model, monkeypatch, **settings) -> list[float]:
    """The learning rate of every step."""
    step, seen = torch.optim.AdamW.step, []

    def noted(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", noted)
        fit(model, blank(), random_samples(), FitConfig(lr=0.1, epochs=3, batch_size=5, **settings), progress=False)
    assert len(seen) == STEPS
    return seen


def test_courses_by_their_formulas(model, monkeypatch):
    linear = [0.1 * (1 - i / STEPS) for i in range(STEPS)]
    cosine = [0.05 * (1 + math.cos(math.pi * i / STEPS)) for i in range(STEPS)]
    assert rates(model, monkeypatch) == [0.1] * STEPS
    assert rates(model, monkeypatch, schedule="linear") == pytest.approx(linear)
    assert rates(model, monkeypatch, schedule="cosine") == pytest.approx(cosine)
    cycle = rates(model, monkeypatch, schedule="one_cycle", warmup=0.5)
    assert max(cycle) == pytest.approx(0.1)
    assert cycle.index(max(cycle)) == 5
    assert cycle[0] == pytest.approx(0.1 / 25)
    assert cycle[-1] < 1e-5
    assert rates(model, monkeypatch, schedule="one_cycle")[2:4] == sorted(
        rates(model, monkeypatch, schedule="one_cycle")[2:4]
    )


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warmup_rises_and_the_course_follows(model, monkeypatch, schedule):
    seen = rates(model, monkeypatch, schedule=schedule, warmup=0.25)
    assert seen[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    rest = {
        "constant": [0.1] * 9,
        "linear": [0.1 * (1 - i / 9) for i in range(9)],
        "cosine": [0.05 * (1 + math.cos(math.pi * i / 9)) for i in range(9)],
    }
    assert seen[3:] == pytest.approx(rest[schedule])


@pytest.mark.parametrize(
    ("schedule", "warmup"),
    [
        *(("constant", None), ("constant", 0.3), ("linear", None), ("linear", 0.5)),
        *(("cosine", None), ("cosine", 0.3), ("one_cycle", None), ("one_cycle", 0.5)),
    ],
)
@pytest.mark.parametrize("killed_at", [6, 11])
def test_a_killed_run_resumes_to_the_same_bytes(model, monkeypatch, tmp_path: Path, schedule, warmup, killed_at):
    config = FitConfig(lr=0.05, epochs=3, batch_size=5, schedule=schedule, warmup=warmup)
    samples = random_samples()

    def run(checkpoint: Path | None):
        return fit(model, blank(), samples, config, checkpoint=checkpoint, progress=False)

    undisturbed = run(tmp_path / "whole.safetensors")
    with killed_in_step(killed_at, monkeypatch):
        run(tmp_path / "cut.safetensors")
    resumed = run(tmp_path / "cut.safetensors")
    assert all(map(torch.equal, state(undisturbed), state(resumed)))
    assert repr(resumed.history) == repr(undisturbed.history)  # the order of the terms too
    again = run(tmp_path / "cut.safetensors")  # a finished run
    assert all(map(torch.equal, state(again), state(resumed)))


def test_learning_rates_are_the_adapters_own(model):
    class Slow(ms.adapters.Static):
        default_lr = 3e-4

    class Plain(Adapter):
        linear_in_coeff, identity_at_init = True, True

        def __init__(self) -> None:
            super().__init__()
            self.vector = torch.nn.Parameter(torch.zeros(toys.D_MODEL))

        def delta(self, acts, state, coeff, ctx):
            return (coeff * self.vector).expand_as(acts), None

        def config(self):
            return {}

        @classmethod
        def blank(cls, config):  # noqa: ARG003
            return cls()

    static = blank().adapter
    adapters = [static, Slow(torch.zeros(toys.D_MODEL)), Plain(), static]
    several = ms.Steering([ms.Intervention(a, ms.Site(1), scope=blank().scope) for a in adapters])
    samples = random_samples(4)
    own = fit(model, several, samples, FitConfig(epochs=1), progress=False)
    assert own.learning_rates == (1e-2, 3e-4, 1e-3)
    # the first step of Adam is as long as its learning rate
    moved = [iv.adapter.vector.detach().abs().max().item() for iv in own.steering.interventions]
    assert moved == pytest.approx([1e-2, 3e-4, 1e-3, 1e-2], rel=1e-3)
    given = fit(model, several, samples, FitConfig(epochs=1, lr=0.5), progress=False)
    assert given.learning_rates == (0.5, 0.5, 0.5)


def test_activations_learn_in_their_own_units(model):
    """The first step of Adam: a vector and the atoms move by a share of an activation, the router by the rate itself."""
    dictionary = perturbed(ms.adapters.Dictionary(toys.D_MODEL, toys.D_MODEL, n_atoms=3, d_hidden=4), size=0.1)
    static = ms.adapters.Static(torch.zeros(toys.D_MODEL))
    both = [ms.Intervention(adapter, 1, scope=blank().scope) for adapter in (dictionary, static)]
    config = FitConfig(epochs=1, lr=1e-3, activation_rms=20.0)
    result = fit(model, both, random_samples(4), config, progress=False)
    assert result.learning_rates == pytest.approx((0.02, 0.02))
    before = dictionary.state_dict()
    after = result.steering.interventions[0].adapter.state_dict()
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert moved["atoms"] == pytest.approx(0.02, rel=1e-2)
    assert moved["router.last.weight"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["gains"] == 0
    assert float(result.steering.interventions[1].adapter.vector.detach().abs().max()) == pytest.approx(0.02, rel=1e-2)


def test_a_killed_run_of_several_rates_resumes_to_the_same_bytes(model, monkeypatch, tmp_path: Path):
    dictionary = perturbed(ms.adapters.Dictionary(toys.D_MODEL, toys.D_MODEL, n_atoms=3, d_hidden=4), size=0.1)
    iv = ms.Intervention(dictionary, 1, scope=blank().scope)
    config = FitConfig(lr=0.01, activation_rms=3.0, epochs=3, batch_size=5, schedule="one_cycle")

    def run(checkpoint: Path):
        return fit(model, iv, random_samples(), config, checkpoint=checkpoint, progress=False)

    undisturbed = run(tmp_path / "whole.safetensors")
    with killed_in_step(7, monkeypatch):
        run(tmp_path / "cut.safetensors")
    assert all(map(torch.equal, state(undisturbed), state(run(tmp_path / "cut.safetensors"))))


def test_refusals(model):
    for settings, message in (
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"patience": 0}, "patience is 0"),
        ({"activation_rms": 0.0}, "activation_rms is 0.0"),
        ({"cache_bytes": -1}, "cache_bytes is -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            FitConfig(**settings)
    with pytest.raises(ConfigError, match="one-cycle schedule over 3 steps"):
        fit(model, blank(), random_samples(3), FitConfig(epochs=3, schedule="one_cycle"), progress=False)
