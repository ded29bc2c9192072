"""Options: the loss is the cross-entropy over their likelihoods, however they are batched; a planted choice is learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import Arm, MultipleChoice, log_likelihoods
from mechsteer.models import tokenize, tokenize_continuation
from mechsteer.tasks import Item
from mechsteer.training import FitConfig, OptionLikelihoods, fit
from mechsteer.training.parts import Forwards
from tests.training.training_toys import blank, confident, state

NORMALISED = ["none", "tokens", "characters"]


def item(i: int, options: tuple[str, ...], answer: int) -> Item:
    return Item(id=str(i), prompt=f"q{i}:", answer=options[answer], group=str(i), meta={"options": list(options)})


ITEMS = [
    item(0, (" yes", " nonono", " x"), 1),
    item(1, (" ab", " abc"), 0),
    item(2, (" b", " bb", " ccccc", " d"), 3),
    item(3, (" yes", " é"), 1),  # a letter of two bytes: two tokens, one character
    item(4, (" long one", " s", " long one"), 1),  # one is there twice
]


MANY = [*ITEMS, *(item(i, (" ab", f" {'c' * (i % 4 + 1)}", f" {i}"), i % 3) for i in range(5, 25))]


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


def steering(seed: int = 2) -> ms.Intervention:
    return replace(blank(), adapter=ms.adapters.Static(toys.vector(seed)))


def by_hand(model, iv, items, normalise: str) -> tuple[list[float], list[bool]]:
    """(loss, right) per item, from the likelihoods that the evaluation scores."""
    losses, right = [], []
    for one in items:
        options = list(dict.fromkeys(one.meta["options"]))
        (prompt,) = tokenize(model, [one.prompt])
        ends = [list(tokenize_continuation(model, text)) for text in options]
        sizes = {
            "none": [1] * len(ends),
            "tokens": [len(end) for end in ends],
            "characters": [len(text) - 1 for text in options],
        }[normalise]
        scores = log_likelihoods(model, [(prompt, end) for end in ends], iv) / np.array(sizes)
        k = options.index(one.answer)
        losses.append(float(np.log(np.exp(scores - scores[k]).sum())))
        right.append(int(scores.argmax()) == k)
    return losses, right


@pytest.mark.parametrize("normalise", NORMALISED)
@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("group_lengths", [False, True])
def test_the_loss_is_what_it_is_defined_to_be(model, normalise, batch_size, group_lengths):
    iv, config = steering(), FitConfig(batch_size=batch_size, group_lengths=group_lengths)
    objective = OptionLikelihoods(ITEMS, dev=ITEMS[1:3], normalise=normalise).prepared(model, config)
    parts, forwards = objective.parts(model, [iv], config), Forwards(model, [iv], config)
    for part in parts.train:
        assert len(part.groups) <= batch_size or len(part.groups.unique()) == 1
    assert len(parts.train) == {1: 5, 64: 1}.get(batch_size, len(parts.train)) < 6
    for split, items in ((parts.train, ITEMS), (parts.dev, ITEMS[1:3])):
        terms = [objective.terms(forwards.steered(part)) for part in split]
        losses, right = by_hand(model, iv, items, normalise)
        assert sum(found["multiple_choice"][1] for found in terms) == len(items)
        assert sum(found["multiple_choice"][0].item() for found in terms) == pytest.approx(sum(losses), rel=1e-4)
        assert sum(found["right"][0] for found in terms) == sum(right)


@pytest.mark.parametrize("normalise", NORMALISED)
def test_right_means_what_it_means_to_the_evaluation(model, normalise):
    scoring = MultipleChoice(normalise=normalise)
    found = [scoring.score(model, Arm(name="a", steering=steering(seed)), MANY).score for seed in range(4)]
    ours = []
    for seed in range(4):
        objective = OptionLikelihoods(MANY[:1], dev=MANY, normalise=normalise)
        result = fit(model, steering(seed), objective, FitConfig(epochs=1, lr=0.0), progress=False)
        ours.append(result.history[0].dev["right"])
    assert ours == pytest.approx(found)
    assert len(set(found)) > 1


def test_the_gradient_is_the_one_computed_directly():
    model = toys.load("llama", dtype=torch.float64)
    iv, config = replace(blank(), adapter=ms.adapters.Static(toys.vector(5).double())), FitConfig(batch_size=64)
    objective = OptionLikelihoods(ITEMS, normalise="characters").prepared(model, config)
    (part,) = objective.parts(model, [iv], config).train
    total, n = objective.terms(Forwards(model, [iv], config).steered(part))["multiple_choice"]
    (grad,) = torch.autograd.grad(total / n, iv.adapter.vector)

    losses = []
    for one in ITEMS:
        options, scores = list(dict.fromkeys(one.meta["options"])), []
        (prompt,) = tokenize(model, [one.prompt])
        for text in options:
            end = list(tokenize_continuation(model, text))
            with ms.steer(model, iv, prompt_lengths=[len(prompt)]):
                log_p = model(torch.tensor([prompt + end]))[0].log_softmax(-1)
            picked = [log_p[len(prompt) - 1 + k, token] for k, token in enumerate(end)]
            scores.append(torch.stack(picked).sum() / (len(text) - 1))
        losses.append(-torch.stack(scores).log_softmax(0)[options.index(one.answer)])
    (expected,) = torch.autograd.grad(torch.stack(losses).mean(), iv.adapter.vector)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-14)


def test_a_planted_choice_is_learned():
    letters = "abcdefghijklmnopqrstuvwxyz"
    plain = [(f"{one}:", (" no", " yes"), 1) for one in letters]
    objective = OptionLikelihoods(plain[:16], dev=plain[16:], kl_weight=0, l2_weight=0, neutral=[[256, 4, 8]])
    result = fit(confident("llama"), blank(), objective, FitConfig(lr=0.1, epochs=8), progress=False)
    before, after = result.history[0].dev, result.history[result.best_epoch].dev
    assert after["multiple_choice"] < 0.5 * before["multiple_choice"]
    assert after["right"] == 1.0 > before["right"]


def test_plain_problems_stand_for_items_and_the_number_counts(model):
    config = FitConfig(epochs=1)
    plain = [(one.prompt, one.meta["options"], one.meta["options"].index(one.answer)) for one in ITEMS]
    runs = [fit(model, blank(), OptionLikelihoods(given), config, progress=False) for given in (ITEMS, plain)]
    assert runs[0].data_hash == runs[1].data_hash
    assert all(map(torch.equal, state(runs[0]), state(runs[1])))
    other = fit(model, blank(), OptionLikelihoods([(*plain[0][:2], 0), *plain[1:]]), config, progress=False)
    assert other.data_hash != runs[0].data_hash


def test_refusals(model):
    with pytest.raises(ConfigError, match="normalise is 'words'"):
        OptionLikelihoods(ITEMS, normalise="words")
    for wrong, message in (
        ([], "there are no items"),
        ([Item(id="7", prompt="q", answer="a", group="7")], "item '7' has no options"),
        ([item(0, (" a", " b"), 0), ("q", (" a", " a"), 0)], "no problem with options"),
        ([("q", (" a", " b"), 2)], "no problem with options"),
        ([("q", " ab", 0)], "no problem with options"),
        (["q"], "'q' is no problem with options"),
    ):
        with pytest.raises(DataError, match=message):
            fit(model, blank(), OptionLikelihoods(wrong), progress=False)
