"""Scores against plain Hugging Face, one row at a time."""

import numpy as np
import pytest
import torch
import toys
from transformers import AutoModelForCausalLM, AutoTokenizer

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import (
    Arm,
    LogOdds,
    MultipleChoice,
    Verified,
    base_arm,
    log_likelihoods,
    mean_score,
    prompt_arm,
    treated_arm,
)
from mechsteer.evaluation.verified import rows_at_once
from mechsteer.tasks import Item, Task, load_task

TEXTS = ["Tom is", "Today Anna and Ben feel very, very", "I feel", "The dog is", "She has 3 apples. She is"]
OPTIONS = (" happy", " sad today", " a dog of mine", " 12")


@pytest.fixture(scope="module")
def pocket():
    return ms.load_model("pocket")


@pytest.fixture(scope="module")
def hf():
    folder = ms.models.bundled_models()["pocket"]
    return AutoModelForCausalLM.from_pretrained(folder).float(), AutoTokenizer.from_pretrained(folder)


def items(**meta):
    return [
        Item(id=str(i), prompt=text, answer=OPTIONS[i % 4], group=str(i), meta=meta) for i, text in enumerate(TEXTS)
    ]


def steering(model, size=40):
    vector = size * torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    return vector, ms.Intervention(ms.adapters.Static(vector), ms.Site(2, "resid_post"))


def log_p(hf, prompt, text, vector=None):
    """log P(text | prompt) by one forward of the Hugging Face model; `vector` is added behind its third block."""
    model, tokenizer = hf
    row, end = (tokenizer.encode(part) for part in (prompt, text))
    handle = None
    if vector is not None:
        handle = model.model.layers[2].register_forward_hook(lambda _module, _args, out: out + vector)
    with torch.no_grad():
        log_probs = model(torch.tensor([row + end])).logits[0, len(row) - 1 : -1].log_softmax(-1)
    if handle is not None:
        handle.remove()
    return sum(float(log_probs[i, token]) for i, token in enumerate(end)), len(end)


@pytest.mark.parametrize("steered", [False, True])
def test_log_odds(pocket, hf, steered):
    vector, iv = steering(pocket)
    scoring = LogOdds(positive=" happy today", negative=" sad", batch_size=3)
    scored = scoring.score(pocket, Arm(name="a", steering=iv if steered else ()), items())
    expected = [[log_p(hf, t, end, vector if steered else None)[0] for end in (" happy today", " sad")] for t in TEXTS]
    np.testing.assert_allclose(scored.log_likelihoods, expected, atol=1e-4)
    np.testing.assert_allclose(scored.scores, np.subtract(*np.array(expected).T), atol=1e-4)
    assert scored.groups == ("0", "1", "2", "3", "4")


def test_log_odds_prompts_are_cut_and_get_the_suffix_and_the_prefix(pocket, hf):
    scoring = LogOdds(positive=" happy", negative=" sad", suffix=" She felt very", prompt_tokens=2)
    ids = hf[1].encode(TEXTS[1])[:2] + hf[1].encode(" She felt very")
    assert scoring.prompt(pocket, items()[1]) == ids
    scored = scoring.score(pocket, prompt_arm(" not"), items()[1:2])
    whole = hf[1].decode(ids) + " not"
    assert scored.scores[0] == pytest.approx(log_p(hf, whole, " happy")[0] - log_p(hf, whole, " sad")[0], abs=1e-4)


@pytest.mark.parametrize("normalise", ["none", "tokens", "characters"])
@pytest.mark.parametrize("steered", [False, True])
def test_multiple_choice_is_the_direct_log_softmax(pocket, hf, normalise, steered):
    vector, iv = steering(pocket)
    scoring = MultipleChoice(normalise=normalise, batch_size=3)
    scored = scoring.score(pocket, Arm(name="a", steering=iv if steered else ()), items(options=list(OPTIONS)))
    found = [[log_p(hf, text, option, vector if steered else None) for option in OPTIONS] for text in TEXTS]
    sums, lengths = np.array(found)[..., 0], np.array(found)[..., 1]
    size = {"none": 1, "tokens": lengths, "characters": [len(o) - 1 for o in OPTIONS]}[normalise]
    np.testing.assert_allclose(scored.log_likelihoods, sums, atol=1e-4)
    np.testing.assert_array_equal(scored.scores, (sums / size).argmax(1) == np.arange(5) % 4)
    assert scored.scores.dtype == bool


def test_normalising_changes_the_choice(pocket):
    chosen = {
        how: MultipleChoice(normalise=how).score(pocket, base_arm(), items(options=[" dog", " dog dog dog", *OPTIONS]))
        for how in ("none", "tokens")
    }
    rows = [np.array(s.log_likelihoods) for s in chosen.values()]
    np.testing.assert_allclose(rows[0], rows[1])
    assert (rows[0].argmax(1) != (rows[0] / [1, 3, 1, 2, 4, 1]).argmax(1)).any()


def test_log_likelihoods_do_not_depend_on_the_batch(pocket):
    pairs = [(list(range(5, 5 + n)), list(range(30, 30 + m))) for n, m in ((3, 4), (9, 1), (1, 7), (5, 2))]
    alone = np.concatenate([log_likelihoods(pocket, [pair]) for pair in pairs])
    for options in ({"batch_size": 2}, {"batch_size": 3, "by_length": True}, {}):
        np.testing.assert_allclose(log_likelihoods(pocket, pairs, **options), alone, atol=1e-4)


def test_greedy_texts_are_those_of_generate_and_judged_by_the_task(pocket):
    task = load_task("pocket", 12, split="test")
    scored = Verified(task=task, batch_size=5).score(pocket, base_arm(), task.items)
    out = ms.generate(pocket, [item.prompt for item in task.items], max_new_tokens=200)
    assert [list(ids) for ids in scored.tokens] == out.tokens
    assert scored.scores.tolist() == [task.verify(i, t) for i, t in zip(task.items, out.texts, strict=True)]
    assert scored.stopped == tuple(out.stopped)
    assert scored.groups == tuple(item.group for item in task.items)


def test_batches_are_as_large_as_keys_and_values_allow(pocket):
    row_bytes = 6 * 2 * 2 * 32 * 4 * 100  # layers, keys and values, heads that keep them, d_head, float32, tokens
    assert rows_at_once(pocket, 100) == 256
    assert rows_at_once(pocket, 100, budget_bytes=40 * row_bytes) == 40
    assert rows_at_once(pocket, 100, budget_bytes=row_bytes) == 16
    task = load_task("pocket", 20, split="test")
    automatic, small = (Verified(task=task, batch_size=n).score(pocket, base_arm(), task.items) for n in (None, 7))
    assert automatic.tokens == small.tokens


def test_a_prefix_is_part_of_the_text_that_is_judged(pocket):
    task = load_task("pocket", 3, split="test")
    scored = Verified(task=task).score(pocket, prompt_arm(" Let me think carefully."), task.items)
    assert all(trace.text.startswith(" Let me think carefully. ") for trace in scored.traces)
    prompts = [item.prompt + " Let me think carefully." for item in task.items]
    assert [list(ids) for ids in scored.tokens] == ms.generate(pocket, prompts, max_new_tokens=200).tokens


def test_sampling_answers_every_item_once_per_seed_whatever_the_batch(pocket):
    task = load_task("pocket", 6, split="test")
    how = {"task": task, "temperature": 1.0, "max_new_tokens": 20}
    both = Verified(**how, seeds=(0, 1)).score(pocket, base_arm(), task.items)
    assert both.scores.shape == (12,)
    assert both.groups == 2 * tuple(item.group for item in task.items)
    assert [t.sample for t in both.traces] == [0] * 6 + [1] * 6
    assert both.tokens[:6] != both.tokens[6:]
    alone = Verified(**how, seeds=(1,), batch_size=4).score(pocket, base_arm(), task.items)
    assert alone.tokens == both.tokens[6:]


def test_what_was_kept_is_not_computed_again(pocket):
    task, kept, asked = load_task("pocket", 3, split="test"), {}, []

    def keep(name, compute):
        asked.append(name)
        if name not in kept:
            kept[name] = compute()
        return kept[name]

    sampled = Verified(task=task, temperature=1.0, seeds=(4,), max_new_tokens=5)
    for scoring, names in ((Verified(task=task, max_new_tokens=5), ["base"]), (sampled, ["base, seed 4"])):
        first = scoring.score(pocket, base_arm(), task.items, keep=keep)
        again = scoring.score(pocket, base_arm(), task.items, keep=keep)
        assert first.tokens == again.tokens
        assert asked == names * 2
        asked.clear()
    assert all(isinstance(token, int) for row in kept["base"] for token in row)
    kept["base"] = [[5]] * 3
    assert Verified(task=task, max_new_tokens=5).score(pocket, base_arm(), task.items, keep=keep).tokens == ((5,),) * 3


def test_a_planted_steering_is_right_on_the_rows_it_steers():
    """A large vector along an unembedding row makes the model say that token: right where a row is steered."""
    model = toys.shared("llama")
    token = 65  # a byte of the toy tokenizer
    wanted = model.tokenizer.decode([token])
    vector = 1e3 * model.W_U[:, token].detach()
    items = [Item(id=str(i), prompt="abc"[: 1 + i % 3] * 2, answer=wanted, group=str(i)) for i in range(9)]
    task = Task(name="say", items=tuple(items), verifier=lambda answer, text: text == answer)
    scoring = Verified(task=task, max_new_tokens=1, stop_tokens=(), batch_size=4)
    iv = ms.Intervention(ms.adapters.Static(vector), ms.Site(2, "resid_post"), scope=ms.TokenScope.rows([0, 1, 4, 7]))
    assert not scoring.score(model, base_arm(), items).scores.any()
    assert np.flatnonzero(scoring.score(model, treated_arm(iv), items).scores).tolist() == [0, 1, 4, 7]
    assert mean_score(model, scoring, items)(iv, "any name") == pytest.approx(4 / 9)


def test_refusals(pocket):
    task = load_task("pocket", 3, split="test")
    with pytest.raises(ConfigError, match="takes no seeds"):
        Verified(task=task, seeds=(1,))
    with pytest.raises(ConfigError, match="sampling at least one"):
        Verified(task=task, temperature=0.5)
    with pytest.raises(ConfigError, match="cannot be verified"):
        Verified(task=Task(name="stories", items=task.items))
    with pytest.raises(DataError, match="fills the context"):
        Verified(task=task).score(pocket, Arm(name="a", prefix=(5,) * 512), task.items)
    with pytest.raises(DataError, match="has no options"):
        MultipleChoice().score(pocket, base_arm(), items())
    with pytest.raises(DataError, match="is none of its options"):
        MultipleChoice().score(pocket, base_arm(), items(options=["a", "b"]))
    with pytest.raises(ConfigError, match="has no tokens"):
        LogOdds(positive="", negative=" sad").score(pocket, base_arm(), items())
    with pytest.raises(DataError, match="in a context of 512"):
        log_likelihoods(pocket, [([5] * 500, [5] * 20)])
