"""REINFORCE: a planted reward rises, its negative falls, and the gradient is the estimator written out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toys
from toy_adapters import PromptMlp

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError, ScopeError
from mechsteer.tasks import Item
from mechsteer.training import FitConfig, Objective, Reinforce, Rows, fit
from mechsteer.training.objectives.sampled import Answers
from mechsteer.training.parts import Forwards
from tests.training.training_toys import GENERATED, blank, confident, killed_in_step, state

WANTED = set("ABCDEFGHIJKLMNOP")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def items(n: int, start: int = 0) -> list[Item]:
    texts = [LETTERS[i % 26] + LETTERS[(3 * i + 1) % 26] * (i % 3) for i in range(start, start + n)]
    return [Item(id=str(i), prompt=text, answer="a", group=str(i)) for i, text in enumerate(texts, start)]


def emits(_item: Item, text: str) -> bool:
    """A planted reward: one of sixteen letters is written."""
    return not WANTED.isdisjoint(text)


def has_a_digit(_item: Item, text: str) -> bool:
    """Another: about half of what is drawn at random gets it, the model's filler tokens among them."""
    return any(char in "0123456789" for char in text)


def dynamic(*, layer: int = 1, dtype: torch.dtype = torch.float32) -> ms.Intervention:
    """An adapter on the prompt's summary that is not the identity."""
    adapter = PromptMlp(toys.D_MODEL, toys.D_MODEL)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return ms.Intervention(adapter.to(dtype), ms.Site(layer), scope=GENERATED)


@pytest.fixture(scope="module")
def model():
    return confident()


def share(model, steering, asked) -> float:
    """Of answers sampled with other random numbers: how many get the planted reward."""
    prompts = [item.prompt for item in asked for _ in range(16)]
    texts = ms.generate(model, prompts, steering, max_new_tokens=3, temperature=1.0, seed=99).texts
    return sum(emits(asked[0], text) for text in texts) / len(texts)


CONFIG = FitConfig(lr=0.1, epochs=8, batch_size=16, patience=8)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_planted_reward_rises_on_problems_never_seen(model, kind):
    given = blank() if kind == "static" else replace(blank(), adapter=PromptMlp(toys.D_MODEL, toys.D_MODEL))
    held_out = items(8, start=40)
    objective = Reinforce(items(12), emits, dev=items(6, start=30), max_new_tokens=3, kl_weight=0.01, l2_weight=0)
    result = fit(model, given, objective, replace(CONFIG, lr=0.1 if kind == "static" else 0.03), progress=False)
    before, after = share(model, (), held_out), share(model, result.steering, held_out)
    assert after > before + 0.4
    rewards = [epoch.dev["reward"] for epoch in result.history]
    assert rewards[result.best_epoch] > rewards[0] + 0.4
    assert result.history[0].dev["loss"] == pytest.approx(-rewards[0], abs=1e-6)  # at the start nothing is changed


def test_with_the_sign_turned_it_falls(model):
    worse = Reinforce(
        items(12), lambda item, text: -float(emits(item, text)), max_new_tokens=3, kl_weight=0.0, l2_weight=0.0
    )
    result = fit(model, blank(), worse, replace(CONFIG, epochs=4), progress=False)
    held_out = items(8, start=40)
    assert share(model, result.steering, held_out) < 0.6 * share(model, (), held_out)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize(("temperature", "standardise", "n_stops"), [(1.0, False, 1), (1.7, True, 60)])
def test_the_gradient_is_the_estimator_written_out(kind, temperature, standardise, n_stops):
    model = toys.load("qwen3", dtype=torch.float64)
    stops = [257, *range(100, 99 + n_stops)]
    model.original_model.generation_config.eos_token_id = stops
    iv = dynamic(dtype=torch.float64)
    if kind == "static":
        iv = replace(iv, adapter=ms.adapters.Static(toys.vector(2).double()))
    asked = [
        replace(one, prompt=2 * one.prompt[0]) for one in items(5)
    ]  # no padding, which a raw bridge in float64 turns into NaN
    config = FitConfig(batch_size=64)
    objective = Reinforce(
        *(asked, has_a_digit),
        n_samples=4,
        max_new_tokens=4,
        temperature=temperature,
        standardise=standardise,
        kl_weight=0.0,
        l2_weight=0.0,
    )
    drawn = objective.renewed(model, [iv], config, split="train", epoch=3)
    (part,) = drawn.parts(model, [iv], config).train
    terms = drawn.terms(Forwards(model, [iv], config).steered(part))
    total, n = terms["reinforce"]
    grads = torch.autograd.grad(total / n, list(iv.adapter.parameters()))

    rows = drawn.rows(model).train
    texts = [model.tokenizer.decode([t for t in target if t not in stops]) for _, target in rows]
    rewards = torch.tensor([has_a_digit(asked[0], text) for text in texts], dtype=torch.float64).reshape(5, 4)
    assert 0 < rewards.mean() < 1
    assert terms["reward"] == (rewards.sum().item(), 20)
    losses, ended = [], 0
    for i, (prompt, target) in enumerate(rows):
        group = rewards[i // 4]
        advantage = rewards.flatten()[i] - group.mean()
        if standardise and group.std() > 0:
            advantage = advantage / ((group - group.mean()) ** 2).mean().sqrt()
        with ms.steer(model, iv, prompt_lengths=[len(prompt)]):
            p = (model(torch.tensor([prompt + target]))[0] / temperature).softmax(-1)
        for k, token in enumerate(target):
            here = p[len(prompt) - 1 + k]
            ended += token in stops
            losses.append(-advantage * (here[stops].sum() if token in stops else here[token]).log())
    assert ended > 0 or n_stops == 1
    assert n == len(losses)
    by_hand = torch.autograd.grad(torch.stack(losses).mean(), list(iv.adapter.parameters()))
    for one, other in zip(grads, by_hand, strict=True):
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_the_kl_counts_sampled_tokens_and_neutral_text(model):
    iv, config = replace(blank(), adapter=ms.adapters.Static(toys.vector(4))), FitConfig(batch_size=64)
    objective = Reinforce(items(3), emits, n_samples=2, max_new_tokens=3, neutral=[[256, 4, 8, 15]])
    drawn = objective.renewed(model, [iv], config, split="train", epoch=0)
    parts, forwards = drawn.parts(model, [iv], config), Forwards(model, [iv], config)
    total, n = drawn.terms(forwards.steered(parts.train[0]))["kl"]
    kls = []
    for prompt, target in drawn.rows(model).train:
        row = torch.tensor([prompt + target])
        base = model(row)[0].log_softmax(-1)
        with ms.steer(model, iv, prompt_lengths=[len(prompt)]):
            steered = model(row)[0].log_softmax(-1)
        where = slice(len(prompt) - 1, row.shape[1] - 1)
        kls += list((base[where].exp() * (base[where] - steered[where])).sum(-1))
    assert n == len(kls)
    assert total.item() == pytest.approx(sum(kls).item(), rel=1e-4)
    assert drawn.terms(forwards.steered(parts.neutral[0])).keys() == {"kl", "square_norm"}


def test_answers_are_sampled_anew_for_training_and_alike_for_dev(model):
    objective = Reinforce(items(4), emits, dev=items(4, start=9), n_samples=3, max_new_tokens=4)

    def rows(split, epoch, seed=0, iv=None):
        drawn = objective.renewed(model, [iv or blank()], FitConfig(seed=seed), split=split, epoch=epoch)
        return getattr(drawn.rows(model), split)

    assert rows("train", 0) == rows("train", 0) != rows("train", 1)
    assert rows("train", 0) != rows("train", 0, seed=1)
    assert rows("dev", 0) == rows("dev", 1) != rows("dev", 1, iv=dynamic())
    prompts = [prompt for prompt, _ in rows("train", 0)]
    assert prompts == [prompt for prompt, _ in objective.rows(model).train]
    assert len({tuple(target) for _, target in rows("train", 0)[:3]}) > 1  # one prompt, several answers


@pytest.mark.parametrize("make", [blank, dynamic])
def test_a_killed_run_resumes_to_the_same_bytes(model, make, tmp_path, monkeypatch):
    given, config = make(), FitConfig(lr=0.05, epochs=4, batch_size=8, schedule="cosine")
    objective = Reinforce(items(5), emits, dev=items(3, start=9), n_samples=4, max_new_tokens=3)

    def run(objective=objective, **options):
        return fit(model, given, objective, config, progress=False, **options)

    whole = run()
    assert len(whole.history) > 2
    checkpoint = tmp_path / "run.safetensors"
    with killed_in_step(5, monkeypatch):
        run(checkpoint=checkpoint)
    resumed = run(checkpoint=checkpoint)
    assert all(map(torch.equal, state(resumed), state(whole)))
    assert resumed.history == whole.history
    for changed in (replace(objective, temperature=0.9), replace(objective, items=[*items(4), items(1, start=11)[0]])):
        with pytest.raises(ConfigError, match=r"another run: .*objective"):
            run(changed, checkpoint=checkpoint)


def test_advantages_are_nothing_where_all_rewards_are_equal():
    answers = Answers(rows=[], rewards=torch.tensor([[1.0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 4]], dtype=torch.float64))
    assert answers.advantages(standardise=False).tolist() == [0.5, -0.5, -0.5, 0.5, 0, 0, 0, 0, -1, -1, -1, 3]
    found = answers.advantages(standardise=True)
    assert found[:8].tolist() == [1, -1, -1, 1, 0, 0, 0, 0]
    assert found[11].item() == pytest.approx(3**0.5)


class Shrinking(Objective):
    """Renews itself to fewer rows than it began with."""

    weights = {"nothing": 1.0}  # noqa: RUF012

    def __init__(self, n: int) -> None:
        self.n = n

    def rows(self, model):
        return Rows(train=[([256, 1], [2])] * self.n)

    def renewed(self, model, interventions, config, *, split, epoch):
        return Shrinking(1)

    def terms(self, steered):
        return {}


def test_refusals(model, monkeypatch):
    run = {"config": FitConfig(batch_size=1), "progress": False}
    for settings, message in (
        ({"n_samples": 1}, "n_samples is 1"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"kl_weight": -1.0}, "kl_weight is -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            Reinforce(items(2), emits, **settings)
    with pytest.raises(DataError, match=r"reward of a text on item '0' is None"):
        fit(model, blank(), Reinforce(items(2), lambda *_: None), **run)
    with pytest.raises(DataError, match=r"there are no items"):
        fit(model, blank(), Reinforce([], emits), **run)
    with pytest.raises(ConfigError, match="from 3 training batches to 1"):
        fit(model, blank(), Shrinking(3), **run)
    nowhere = blank(scope=ms.TokenScope.positions([60]))
    with pytest.raises(ScopeError, match="can touch nothing"):
        fit(model, nowhere, Reinforce(items(2), emits, n_samples=2, max_new_tokens=2), **run)
    with monkeypatch.context() as patch:
        patch.setattr(model, "tokenizer", None)
        objective = Reinforce([replace(one, prompt=[256, 3]) for one in items(2)], emits)
        with pytest.raises(ConfigError, match="no tokenizer, and rewards judge texts"):
            objective.renewed(model, [blank()], FitConfig(), split="train", epoch=0)
