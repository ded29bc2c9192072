"""Prompts longer than the context: refused with what to do, or cut where the caller says, never silently."""

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import DataError
from mechsteer.models import tokenize

N = toys.N_CTX
LONG = [i % 200 for i in range(N + 20)]
SHORT = [1, 2, 3]


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


def test_left_keeps_the_end_and_right_the_beginning(model):
    bos = model.tokenizer.bos_token_id
    assert tokenize(model, [LONG, SHORT], truncate="right") == [LONG[:N], SHORT]
    assert tokenize(model, [LONG, SHORT], truncate="left") == [LONG[-N:], SHORT]
    assert tokenize(model, [[bos, *LONG]], truncate="left") == [[bos, *LONG[-(N - 1) :]]]
    assert tokenize(model, [[bos, *LONG]], truncate="right", room=5) == [[bos, *LONG][: N - 5]]
    text = tokenize(model, ["x" * 3 * N], truncate="left")[0]
    assert (len(text), text[0] == bos) == (N, tokenize(model, ["x"])[0][0] == bos)


def test_refused_unless_asked(model):
    for call in (
        lambda: ms.capture(model, [SHORT, LONG], 1),
        lambda: ms.generate(model, [SHORT, LONG], max_new_tokens=1),
        lambda: ms.directions.extract(model, [("x" * 3 * N, "y")], 1),
    ):
        with pytest.raises(DataError, match=r"(?s)has \d+ tokens, the model's context is 128.*truncate='left'"):
            call()
    with pytest.raises(DataError, match="truncate='left' keeps the end"):
        ms.generate(model, [LONG[: N - 1]], max_new_tokens=5)


@pytest.mark.parametrize("how", ["left", "right"])
def test_what_is_cut_is_what_runs(how, model, tmp_path):
    kept = LONG[-N:] if how == "left" else LONG[:N]
    acts = ms.capture(model, [SHORT, LONG], 1, truncate=how, progress=False)
    assert acts.lengths.tolist() == [3, N]
    expected = ms.capture(model, [SHORT, kept], 1, progress=False)
    assert torch.equal(acts[1].values, expected[1].values)
    store = ms.capture(model, [SHORT, LONG], 1, truncate=how, path=tmp_path, progress=False)
    assert torch.equal(store[1].load().tokens[1], torch.tensor(kept))
    out = ms.generate(model, [SHORT, LONG], max_new_tokens=4, truncate=how)
    room = N - 4
    assert out.prompt_tokens == [SHORT, LONG[-room:] if how == "left" else LONG[:room]]
    assert all(len(new) == 4 or stopped for new, stopped in zip(out.tokens, out.stopped, strict=True))


def test_extract_cuts_too(model):
    pairs = [("a" * 3 * N + "b", "a" * 3 * N + "c"), ("xb", "xc")]
    left = ms.directions.extract(model, pairs, 1, truncate="left", held_out=0)
    short = ms.directions.extract(model, [(a[-(N - 1) :], b[-(N - 1) :]) for a, b in pairs], 1, held_out=0)
    torch.testing.assert_close(left.vector, short.vector)
