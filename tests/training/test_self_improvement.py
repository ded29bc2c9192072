"""Self-improvement: honest rewards are kept, poisoned ones rolled back, whatever was decided is written down."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError, FileFormatError
from mechsteer.evaluation.likelihoods import log_likelihoods
from mechsteer.runtime.batches import Sample, encode_samples
from mechsteer.training import Attempt, Experience, FitConfig, SelfImprovement, SelfImprovementConfig
from mechsteer.training import self_improvement as room
from tests.training.training_toys import blank

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DEV = [f"dev {one}" for one in LETTERS[:12]]
CONFIG = SelfImprovementConfig(
    enabled=True,
    every=10,
    least_samples=5,
    kl_budget=50.0,
    kl_new_tokens=4,
    kl_weight=0.0,
    fit=FitConfig(epochs=4, lr=0.05, batch_size=4),
)


@pytest.fixture(scope="module")
def model():
    return toys.shared("qwen3")


def answered(model, steering) -> list[bool]:
    """Right where "Z" comes next rather than "A"."""
    right, wrong = "Z", "A"
    ids = [model.to_tokens(text, truncate=False)[0] for text in DEV]
    with ms.steer(model, steering), torch.no_grad():
        logits = [model(row[None])[0, -1] for row in ids]
    alphabet = model.tokenizer.get_vocab()
    return [bool(row[alphabet[right]] > row[alphabet[wrong]]) for row in logits]


def opened(model, folder, config=CONFIG, dev="") -> SelfImprovement:
    """`dev`: what the dev samples are answered with."""
    samples = [(text, dev) for text in DEV] if dev else []
    return SelfImprovement(model, ms.Steering(blank()), folder, answered, DEV[:4], config, dev=samples)


def deploy(improving, target: str, n: int = 10, reward: float = 1.0) -> list[Attempt]:
    """`n` inferences that were answered so; the attempts they led to."""
    made = [
        improving.note(Experience(prompt=f"{one} {target}?", target=target, reward=reward, ended=False))
        for one in (LETTERS * 4)[:n]
    ]
    return [attempt for attempt in made if attempt is not None]


def vector(steering) -> torch.Tensor:
    return steering.interventions[0].adapter.vector.detach()


def test_honest_rewards_are_kept_and_poisoned_ones_rolled_back(model, tmp_path):
    improving = opened(model, tmp_path / "honest")
    (kept,) = deploy(improving, "Z")
    assert kept.kept
    assert kept.gained > kept.lost
    assert kept.dev_after > kept.dev_before == sum(answered(model, ())) / len(DEV)
    assert kept.dev_after == sum(answered(model, improving.steering)) / len(DEV)
    assert kept.kl == pytest.approx(ms.calibration.kl(model, improving.steering, DEV[:4], max_new_tokens=4), rel=1e-6)
    present = vector(improving.steering)

    (rejected,) = [a for a in deploy(improving, "A", n=10) if a is not None]
    assert not rejected.kept
    assert "dev accuracy drops" in rejected.why
    assert rejected.lost > rejected.gained
    assert torch.equal(vector(improving.steering), present)

    again = opened(model, tmp_path / "honest")
    assert again.attempts == [kept, rejected]
    assert torch.equal(vector(again.steering), present)
    assert (again.n_inferences, len(again.experiences)) == (20, 20)
    files = sorted(path.name for path in (tmp_path / "honest" / "attempts").iterdir())
    assert files == ["0001.json", "0001.safetensors", "0002.json"]


def test_a_budget_of_kl_and_a_margin_of_accuracy(model, tmp_path):
    (tight,) = deploy(opened(model, tmp_path / "tight", replace(CONFIG, kl_budget=1e-3)), "Z")
    assert not tight.kept
    assert "over the budget of 0.001" in tight.why
    assert tight.gained > 0
    loose = replace(CONFIG, margin=1.0)
    improving = opened(model, tmp_path / "loose", loose)
    deploy(improving, "Z")
    (none,) = deploy(improving, "A")
    assert none.lost > none.gained
    assert none.why.startswith("nothing is gained: dev accuracy changes by -")
    improving = opened(model, tmp_path / "gains", loose, dev="A")
    deploy(improving, "Z")
    (kept,) = deploy(improving, "A")
    assert kept.kept
    assert kept.lost > kept.gained
    assert kept.loss_change < -10 * kept.loss_error


@pytest.mark.parametrize(("target", "dev", "kept"), [("Z", "", False), ("Z", "Z", True), ("A", "Z", False)])
def test_what_changes_no_answer_is_kept_for_a_lower_dev_loss_alone(model, target, dev, kept, tmp_path):
    """Steps so small that no dev problem is answered otherwise: praised rightly, unproved, and praised wrongly."""
    small = replace(CONFIG, fit=replace(CONFIG.fit, lr=1e-4))
    improving = opened(model, tmp_path, small, dev)
    (made,) = deploy(improving, target)
    assert (made.gained, made.lost) == (0, 0)
    assert made.kept is kept
    assert made.why.startswith("dev accuracy changes by +0.000" if kept else "nothing is gained: dev accuracy")
    assert bool(vector(improving.steering).any()) is kept
    losses = [
        -log_likelihoods(model, encode_samples(model, [Sample(t, dev or "Z") for t in DEV]), s)
        for s in ((), made.steering)
    ]
    if dev:
        assert made.loss_change == pytest.approx(float((losses[1] - losses[0]).mean()), rel=1e-2)
    else:
        assert made.loss_change != made.loss_change
    (read,) = opened(model, tmp_path, small, dev).attempts
    assert read == replace(made, steering=None)


def test_attempts_of_before_are_read():
    made = Attempt(number=1, n_inferences=9, n_samples=5, kept=True, why="")
    data = {name: value for name, value in made.to_dict().items() if not name.startswith("loss_")}
    assert Attempt.from_dict(data) == made


def test_only_rewarded_answers_are_trained_on(model, tmp_path):
    improving = opened(model, tmp_path / "run")
    (few,) = deploy(improving, "A", reward=0.0)
    assert (few.n_samples, few.kept, few.why) == (0, False, "0 rewarded answers, 5 are needed")
    (made,) = deploy(improving, "Z")
    assert made.n_samples == 10
    assert made.kept
    assert vector(improving.steering).abs().sum() > 0


def test_every_counts_inferences_across_restarts(model, tmp_path):
    for n, expected in ((4, 0), (5, 0), (1, 1), (9, 0), (12, 2)):
        assert len(deploy(opened(model, tmp_path), "Z", n=n)) == expected
    numbers = [attempt.n_inferences for attempt in opened(model, tmp_path).attempts]
    assert numbers == [10, 20, 30]


def test_a_kill_between_file_and_decision_leaves_the_steering_as_it_was(model, tmp_path, monkeypatch):
    improving = opened(model, tmp_path)
    deploy(improving, "Z", n=9)
    with monkeypatch.context() as patch:

        def killed(path, data):
            if "attempts" in str(path):
                raise KeyboardInterrupt
            return record(path, data)

        record = room.write_record
        patch.setattr(room, "write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            deploy(improving, "Z", n=10)
    again = opened(model, tmp_path)
    assert again.attempts == []
    assert torch.equal(vector(again.steering), torch.zeros(toys.D_MODEL))
    made = again.attempt()
    whole = opened(model, tmp_path / "undisturbed")
    for one in improving.experiences.all():
        whole.experiences.add(one)
    undisturbed = whole.attempt()
    assert made.kept
    assert replace(made, n_inferences=0) == replace(undisturbed, n_inferences=0)
    assert torch.equal(vector(again.steering), vector(whole.steering))


def test_training_that_diverges_is_no_end_of_the_deployment(model, tmp_path):
    config = replace(CONFIG, fit=replace(CONFIG.fit, lr=1e30))
    improving = opened(model, tmp_path, config)
    (made,) = deploy(improving, "Z")
    assert not made.kept
    assert "training diverged" in made.why
    assert torch.equal(vector(improving.steering), torch.zeros(toys.D_MODEL))


def test_refusals(model, tmp_path):
    with pytest.raises(ConfigError, match="self-improvement is off"):
        opened(model, tmp_path, SelfImprovementConfig())
    for name in ("every", "capacity", "least_samples", "kl_new_tokens"):
        with pytest.raises(ConfigError, match=f"{name} is 0"):
            SelfImprovementConfig(**{name: 0})
    for name in ("margin", "least_errors", "kl_budget"):
        with pytest.raises(ConfigError, match=rf"{name} is -0\.1"):
            SelfImprovementConfig(**{name: -0.1})
    improving = opened(model, tmp_path / "run")
    deploy(improving, "Z")
    log = tmp_path / "run" / "attempts" / "0001.json"
    log.write_text(log.read_text().replace('"kept": true', '"kept": false'))
    with pytest.raises(FileFormatError, match=r"0001.json is damaged"):
        opened(model, tmp_path / "run")
    other = SelfImprovement(model, ms.Steering(blank()), tmp_path / "none", lambda *_: [], DEV[:4], CONFIG)
    with pytest.raises(DataError, match="0 dev answers before"):
        deploy(other, "Z")
