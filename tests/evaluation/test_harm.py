"""Harm against numbers made by hand and plain Hugging Face."""

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import DataError, NonFiniteError
from mechsteer.evaluation import Scored, compression, neutral_loss, neutral_losses, repetition, text_form
from mechsteer.tasks import Trace

TEXTS = toys.prompts(9, 4, 30, 2)


def hugging_face(rows, vector=None, first=0):
    """Σ −log P per row; a vector is added behind the second block, from position `first` on."""
    model = toys.hf_model("llama")
    if vector is not None:

        def add(_module, _args, out):
            hidden = out[0] if isinstance(out, tuple) else out
            hidden[:, first:] += vector
            return out

        toys.blocks(model)[1].register_forward_hook(add)
    with torch.no_grad():
        return np.array(
            [
                float(
                    -model(torch.tensor([row]))
                    .logits[0, :-1]
                    .log_softmax(-1)
                    .gather(1, torch.tensor(row[1:])[:, None])
                    .sum()
                )
                for row in rows
            ]
        )


@pytest.mark.parametrize(
    ("scope", "first"),
    [(None, 0), (ms.TokenScope.generated(), 1), (ms.TokenScope.generated(include_last_prompt=True), 0)],
)
def test_losses_of_a_steered_model_are_hugging_faces(scope, first):
    iv = ms.Intervention(ms.adapters.Static(toys.vector(2)), ms.Site(1, "resid_post"), scope=scope)
    model = toys.shared("llama")
    losses, n_tokens = neutral_losses(model, TEXTS, iv, batch_size=3)
    np.testing.assert_allclose(losses, hugging_face(TEXTS, toys.vector(2), first), rtol=1e-5)
    assert n_tokens.tolist() == [8, 3, 29, 1]
    np.testing.assert_allclose(neutral_losses(model, TEXTS)[0], hugging_face(TEXTS), rtol=1e-5)


def test_long_texts_are_cut_and_short_ones_refused():
    model = toys.shared("llama")
    assert neutral_losses(model, [[5] * 300])[1].tolist() == [toys.N_CTX - 1]
    with pytest.raises(DataError, match="neutral text 1 has 1 token"):
        neutral_losses(model, [[5, 6], [5]])


def test_the_difference_is_per_token_over_all_texts():
    base, treated, n_tokens = np.array([10.0, 30.0]), np.array([11.0, 33.0]), np.array([10, 10])
    found = neutral_loss(base, treated, n_tokens, n_boot=2000)
    assert (found.base, found.treated, found.difference.value) == pytest.approx((2.0, 2.2, 0.2))
    assert (found.difference.low, found.difference.high) == pytest.approx((0.1, 0.3))  # either text, twice
    assert (found.n_texts, found.n_tokens, found.margin, found.not_inferior) == (2, 20, 0.02, False)
    same = neutral_loss(base, base, n_tokens, n_boot=100)
    assert same.not_inferior
    assert not neutral_loss(base, base, n_tokens, margin=0.0, n_boot=100).not_inferior
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        neutral_loss(base, np.array([1.0, np.nan]), n_tokens)


def test_long_texts_count_for_their_length():
    n_tokens = np.array([10, 90] * 100)
    found = neutral_loss(np.zeros(200), n_tokens * np.tile([0.0, 0.2], 100), n_tokens)
    assert found.difference.value == pytest.approx(0.18)
    assert 0.17 < found.difference.low < 0.18 < found.difference.high < 0.19


def test_the_interval_covers_the_true_difference():
    rng, covered = np.random.default_rng(0), 0
    for k in range(200):
        n_tokens = rng.integers(5, 50, 60)
        change = rng.normal(0.1 * n_tokens, np.sqrt(n_tokens))
        interval = neutral_loss(np.zeros(60), change, n_tokens, n_boot=400, seed=k).difference
        covered += interval.low <= 0.1 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_repetition_and_compression_by_hand():
    assert repetition([1, 2, 3, 4, 5], 4) == 0
    assert repetition([7] * 10, 4) == pytest.approx(6 / 7)  # seven 4-grams, one of them new
    assert repetition([1, 2, 3, 1, 2, 3, 1, 2, 3], 3) == pytest.approx(4 / 7)  # 123 231 312 are new
    assert np.isnan(repetition([1, 2], 4))
    assert compression("ab" * 500) < 0.03
    assert compression("q8v!zk2") > 1
    assert np.isnan(compression(""))


def arm(rows, texts):
    traces = tuple(Trace(item_id=str(i), group=str(i), prompt="", text=t, correct=True) for i, t in enumerate(texts))
    groups = tuple(str(i) for i in range(len(rows)))
    return Scored(scores=np.ones(len(rows), dtype=bool), groups=groups, traces=traces, tokens=tuple(map(tuple, rows)))


def test_the_form_of_texts():
    base = arm([[1, 2, 3, 4, 5], [1, 2, 3, 4], [9]], ["one two three", "four", ""])
    looped = arm([[7] * 10, [1, 2, 3, 4], [7] * 6], ["x" * 50, "four", "y"])
    form = text_form(looped, base)
    assert (form.new_tokens, form.n, form.ngram) == (pytest.approx(20 / 3), 3, 4)
    assert form.repetition == pytest.approx((6 / 7 + 0 + 2 / 3) / 3)
    assert form.new_tokens_difference.value == pytest.approx((5 + 0 + 5) / 3)
    assert form.repetition_difference.value == pytest.approx((6 / 7 + 0) / 2)  # the third has none under base
    expected = np.mean([compression("x" * 50) - compression("one two three"), 0])
    assert form.compression_difference.value == pytest.approx(expected)
    assert text_form(base).repetition_difference is None
    assert text_form(Scored(scores=np.ones(2), groups=("a", "b"))) is None
