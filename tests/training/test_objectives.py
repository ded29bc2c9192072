"""Objectives: a teacher is followed, its terms are what they are defined to be, and one's own objective trains too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError, FileFormatError, ModelMismatchError
from mechsteer.models import tokenize
from mechsteer.training import CrossEntropy, FitConfig, Objective, Rows, TeacherKL, fit
from mechsteer.training.objectives import teacher as teacher_room
from mechsteer.training.objectives.teacher import Predictions
from mechsteer.training.parts import Forwards, Steered
from tests.training.training_toys import blank, killed_in_step, random_samples, state

EVERYWHERE = ms.TokenScope.all()
NEUTRAL = [[256, 4, 8, 15], [256, 16, 23]]


@pytest.fixture(scope="module")
def model():
    return toys.shared("qwen3")


@pytest.fixture(scope="module")
def planted():
    """(teacher, vector): the same model with a vector folded in behind an MLP."""
    teacher, vector = toys.load("qwen3"), 0.5 * toys.vector(9)
    ms.fold(teacher, ms.Intervention(ms.adapters.Static(vector), ms.Site(1, "mlp_out")))
    return teacher, vector


def gradient(model, objective, iv, config) -> tuple[dict, torch.Tensor]:
    """(terms of the first training batch, gradient of their weighted loss)."""
    objective = objective.prepared(model, config)
    part = objective.parts(model, [iv], config).train[0]
    terms = objective.terms(Forwards(model, [iv], config).steered(part))
    loss = sum(objective.weights[name] * total / max(n, 1) for name, (total, n) in terms.items())
    return terms, torch.autograd.grad(loss, iv.adapter.vector)[0]


# -- a teacher -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [None, 20])
def test_a_planted_teacher_is_followed(model, planted, top_k, tmp_path):
    teacher, vector = planted
    samples = random_samples(48)
    objective = TeacherKL(
        teacher, samples[:40], dev=samples[40:], kl_weight=0, l2_weight=0, top_k=top_k, cache=tmp_path
    )
    given = blank(point="mlp_out", scope=EVERYWHERE)
    result = fit(model, given, objective, FitConfig(lr=0.05, epochs=12, batch_size=8), progress=False)
    before, after = result.history[0].dev, result.history[result.best_epoch].dev
    assert after["teacher_kl"] < 0.02 * before["teacher_kl"]
    assert torch.cosine_similarity(result.steering.interventions[0].adapter.vector, vector, dim=0) > 0.9
    assert result.objective["teacher"] == ms.model_fingerprint(teacher) != result.fingerprint


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("restart", [True, False])
def test_the_gradient_towards_a_teacher_is_the_one_computed_directly(model, planted, temperature, restart):
    teacher, samples = planted[0], random_samples(3)
    iv = replace(blank(), adapter=ms.adapters.Static(toys.vector(2)))
    objective = TeacherKL(teacher, samples, kl_weight=0.0, l2_weight=0.0, temperature=temperature)
    terms, grad = gradient(model, objective, iv, FitConfig(restart=restart))

    kls = []
    for sample in samples:
        row, p = torch.tensor([[*sample.prompt, *sample.target]]), len(sample.prompt)
        log_p = (teacher(row)[0] / temperature).log_softmax(-1)
        with ms.steer(model, iv, prompt_lengths=[p]):
            log_q = (model(row)[0] / temperature).log_softmax(-1)
        kls += [(log_p[i].exp() * (log_p[i] - log_q[i])).sum() for i in range(p - 1, row.shape[1] - 1)]
    loss = temperature**2 * torch.stack(kls).mean()
    total, n = terms["teacher_kl"]
    assert n == sum(len(s.target) for s in samples)
    assert (total / n).item() == pytest.approx(loss.item(), rel=1e-4)
    torch.testing.assert_close(grad, torch.autograd.grad(loss, iv.adapter.vector)[0], rtol=1e-3, atol=1e-5)


def test_the_top_k_and_the_rest_as_one(model):
    logits = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    log_p, log_q = logits.float().log_softmax(-1)
    short = Predictions.of(logits[0], 1.0, 3)
    kept = log_p.topk(3).indices
    for i in range(6):
        p, q = log_p[i].exp().double(), log_q[i].exp().double()
        rest_p, rest_q = 1 - p[kept[i]].sum(), 1 - q[kept[i]].sum()
        expected = (p[kept[i]] * (p[kept[i]] / q[kept[i]]).log()).sum() + rest_p * (rest_p / rest_q).log()
        assert short.kl(log_q)[i].item() == pytest.approx(expected.item(), rel=1e-4)
    whole = Predictions.of(logits[0], 1.0, None)
    assert bool((short.kl(log_q) <= whole.kl(log_q) + 1e-6).all())
    assert torch.equal(Predictions.of(logits[0], 1.0, 12).kl(log_q), whole.kl(log_q))
    peaked = torch.tensor([[200.0, 0.0, 0.0, 0.0]])  # the rest has no probability left
    assert Predictions.of(peaked, 1.0, 1).kl(torch.zeros(1, 4).log_softmax(-1)).item() == pytest.approx(
        1.386294, rel=1e-5
    )
    leaf = log_q.clone().requires_grad_()
    (grad,) = torch.autograd.grad(Predictions.of(logits[0], 1.0, 3).kl(leaf).sum(), leaf)
    assert bool(torch.isfinite(grad).all())


def test_kept_predictions_spare_the_teacher_and_are_of_these_rows(model, planted, tmp_path, monkeypatch):
    teacher, samples, config = planted[0], random_samples(12), FitConfig(epochs=2, batch_size=5)

    def run(**changes):
        settings = {"dev": samples[:4], "neutral": NEUTRAL, "top_k": 7, "cache": tmp_path} | changes
        return fit(model, blank(), TeacherKL(teacher, samples[4:], **settings), config, progress=False)

    first = run()
    direct = run(cache=None)
    for one, other in zip(first.history, direct.history, strict=True):
        assert one.dev == pytest.approx(other.dev, rel=1e-4, abs=1e-7)
    (file,) = tmp_path.iterdir()

    def refuse(*_args):
        raise AssertionError("the teacher ran")

    with monkeypatch.context() as patch:
        patch.setattr(teacher_room, "predict", refuse)
        again = run()
        with pytest.raises(AssertionError, match="teacher ran"):
            run(temperature=2.0)
        with pytest.raises(AssertionError, match="teacher ran"):
            run(top_k=6)
        with pytest.raises(AssertionError, match="teacher ran"):
            run(dev=samples[:3])
    assert all(map(torch.equal, state(first), state(again)))
    assert first.history == again.history
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(FileFormatError, match=r"teacher's predictions .* is truncated"):
        run()


def test_harm_is_counted_as_with_cross_entropy(model, planted):
    samples, config = random_samples(6), FitConfig()
    iv = replace(blank(scope=ms.TokenScope.from_position(1)), adapter=ms.adapters.Static(toys.vector(4)))
    both = [CrossEntropy(samples, neutral=NEUTRAL), TeacherKL(planted[0], samples, neutral=NEUTRAL)]
    forwards = Forwards(model, [iv], config)
    for split in ("train", "neutral"):
        found = [o.terms(forwards.steered(getattr(o.parts(model, [iv], config), split)[0])) for o in both]
        for name in ("kl", "square_norm"):
            assert found[0][name][1] == found[1][name][1] > 0
            assert found[0][name][0].item() == pytest.approx(found[1][name][0].item(), rel=1e-6)


def test_a_teacher_with_other_words_is_refused(model, tmp_path):
    other = toys.load("llama")
    other.tokenizer = toys.tokenizer()
    other.tokenizer.add_tokens(["<one more>"])
    with pytest.raises(ModelMismatchError, match="300 is None to the model and '<one more>'"):
        fit(model, blank(), TeacherKL(other, random_samples(2)), progress=False)
    smaller = toys.load("llama", vocab_size=299)
    with pytest.raises(ModelMismatchError, match="300 token ids, the teacher 299"):
        fit(model, blank(), TeacherKL(smaller, random_samples(2)), progress=False)
    for settings, message in (({"temperature": 0.0}, "temperature is 0"), ({"top_k": 0}, "top_k is 0")):
        with pytest.raises(ConfigError, match=message):
            TeacherKL(other, random_samples(2), **settings)


# -- one's own -------------------------------------------------------------------------------------------------


class Push(Objective):
    """Makes one token likely after each prompt: an objective that mechsteer has never heard of."""

    def __init__(self, prompts, token: int) -> None:
        self.weights = {"push": 1.0, "entropy": 0.0}
        self.prompts, self.token = prompts, token

    def rows(self, model):
        pairs = [(ids, []) for ids in tokenize(model, self.prompts)]
        return Rows(train=pairs[2:], dev=pairs[:2])

    def scored(self, batch, interventions):
        return batch.context().positions == batch.prompt_lengths[:, None] - 1

    def terms(self, steered):
        log_q = steered.log_probs(steered.part.scored)
        frozen = steered.frozen(steered.part.scored)
        entropy = -(frozen.exp() * frozen).sum()
        return {"push": (-log_q[:, self.token].sum(), len(log_q)), "entropy": (entropy, len(frozen))}

    def identity(self):
        return super().identity() | {"token": self.token}


@pytest.fixture
def push():
    return Push(toys.prompts(3, 6, 4, 5, 7, 3, 4, 6), token=17)


def test_ones_own_objective_trains_restarts_and_resumes(model, push, tmp_path, monkeypatch):
    config = FitConfig(lr=0.05, epochs=4, batch_size=3, schedule="cosine")
    given = blank()

    def run(objective=push, checkpoint=None, **changes):
        return fit(model, given, objective, replace(config, **changes), checkpoint=checkpoint, progress=False)

    whole = run()
    assert list(whole.history[0].dev) == ["loss", "push", "entropy"]
    losses = [epoch.dev["push"] for epoch in whole.history]
    assert losses[-1] < losses[0] - 0.5
    with ms.steer(model, whole.steering):
        p = [model(torch.tensor([prompt]))[0, -1].softmax(-1)[17].item() for prompt in push.prompts[:2]]
    assert losses[whole.best_epoch] == pytest.approx(-torch.tensor(p).log().mean().item(), rel=1e-4)
    assert len({epoch.dev["entropy"] for epoch in whole.history}) == 1  # of the frozen model

    unaided = run(restart=False)
    torch.testing.assert_close(state(whole)[0], state(unaided)[0], rtol=1e-3, atol=1e-5)
    checkpoint = tmp_path / "push.safetensors"
    with killed_in_step(6, monkeypatch):
        run(checkpoint=checkpoint)
    assert all(map(torch.equal, state(run(checkpoint=checkpoint)), state(whole)))
    with pytest.raises(ConfigError, match="another run: objective differ"):
        run(Push(push.prompts, token=18), checkpoint=checkpoint)
    with pytest.raises(ConfigError, match="another run: steering differ"):
        fit(model, blank(layer=0), push, config, checkpoint=checkpoint, progress=False)


def test_terms_need_weights_and_the_loss_a_steering(model, push, monkeypatch):
    push.weights = {"push": 1.0}
    with pytest.raises(ConfigError, match=r"without weights: \['entropy'\]"):
        fit(model, blank(scope=EVERYWHERE), push, progress=False)
    push.weights = {"push": 1.0, "entropy": 0.0}
    with pytest.raises(ConfigError, match=r"resid_post@1 touches no token of the training rows: .*positions"):
        fit(model, blank(scope=ms.TokenScope.positions([40])), push, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(Steered, "log_probs", Steered.frozen)
        with pytest.raises(ConfigError, match="epoch 1, step 1 does not depend"):
            fit(model, blank(), push, progress=False)
    push.prompts = push.prompts[:2]
    with pytest.raises(ConfigError, match="no training data"):
        fit(model, blank(), push, progress=False)


def test_samples_or_pairs_stand_for_cross_entropy(model):
    samples = random_samples(6)
    whole = fit(model, blank(), CrossEntropy(samples), FitConfig(epochs=1), progress=False)
    for given in (samples, [(s.prompt, s.target) for s in samples]):
        short = fit(model, blank(), given, FitConfig(epochs=1), progress=False)
        assert all(map(torch.equal, state(whole), state(short)))
        assert short.history == whole.history
    with pytest.raises(DataError, match="item 1 is no sample: 'ab'"):
        fit(model, blank(), [samples[0], "ab"], progress=False)
    with pytest.raises(ConfigError, match="kl_weight is -1"):
        CrossEntropy(samples, kl_weight=-1)
