"""Rows side by side: every alignment holds the same rows, and says the same of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import toys
from torch.nn.utils.rnn import pad_sequence

from mechsteer.errors import DataError
from mechsteer.runtime.batches import (
    Batch,
    Sample,
    by_length,
    encode_pairs,
    encode_samples,
    make_batches,
    pad_id,
    pad_packed,
    pad_rows,
)

PAIRS = [([256, 5, 9], [12, 40, 7]), ([256], [3]), ([256, 7, 7, 14, 2], []), ([30, 2], [120, 4, 9, 250])]
WHOLE = [prompt + target for prompt, target in PAIRS]


@pytest.mark.parametrize("pad", [0, 258])
def test_rows_stand_where_torch_pads_them(pad):
    rows = [torch.tensor(row) for row in WHOLE]
    for align, side in (("left", "right"), ("right", "left")):
        tokens, real = pad_rows(WHOLE, pad, align=align)
        assert torch.equal(tokens, pad_sequence(rows, batch_first=True, padding_value=pad, padding_side=side))
        assert torch.equal(real, pad_sequence([r > -1 for r in rows], batch_first=True, padding_side=side))
    assert torch.equal(
        tokens, pad_packed(torch.cat(rows), torch.tensor([len(r) for r in WHOLE]), pad, align="right")[0]
    )


def test_an_offset_per_row_puts_these_tokens_into_one_column():
    tokens, real = pad_rows(WHOLE, 258, align=[len(prompt) for prompt, _ in PAIRS])
    assert tokens.shape == (4, 5 + 4)
    for (prompt, target), row, is_real in zip(PAIRS, tokens.tolist(), real.tolist(), strict=True):
        assert row[5 - len(prompt) : 5 + len(target)] == prompt + target
        assert is_real == [5 - len(prompt) <= i < 5 + len(target) for i in range(9)]
        assert {token for token, here in zip(row, is_real, strict=True) if not here} <= {258}


@pytest.mark.parametrize("align", ["targets", "left", "right"])
def test_targets_are_the_same_whatever_the_alignment(align):
    model = toys.shared("llama")
    (batch,) = make_batches(model, PAIRS, 8, align=align)
    assert batch.tokens[batch.is_target].tolist() == [token for _, target in PAIRS for token in target]
    assert batch.next_tokens[batch.predicts_target].tolist() == batch.tokens[batch.is_target].tolist()
    assert batch.tokens[batch.mask].tolist() == [token for row in WHOLE for token in row]
    assert batch.n_prompt == (5 if align == "targets" else None)
    ctx = batch.context()
    assert (ctx.positions[batch.is_target] >= 0).all()
    assert ctx.prompt_lengths.tolist() == [3, 1, 5, 2]
    assert [row[row >= 0].tolist() for row in ctx.positions] == [list(range(len(row))) for row in WHOLE]


def test_order_and_size_of_batches():
    model = toys.shared("llama")
    assert by_length(PAIRS) == [1, 2, 0, 3]
    batches = make_batches(model, PAIRS, 3, by_length(PAIRS))
    assert [batch.rows.tolist() for batch in batches] == [[1, 2, 0], [3]]
    assert batches[1].attention_mask is None
    assert isinstance(batches[0].attention_mask, torch.Tensor)
    with pytest.raises(DataError, match="batch_size is 0"):
        make_batches(model, PAIRS, 0)


@pytest.mark.parametrize(("tokenizer", "pad"), [(None, 0), ({"pad_token_id": None}, 0), ({"pad_token_id": 0}, 0)])
def test_the_padding_id(tokenizer, pad):
    assert pad_id(SimpleNamespace(tokenizer=tokenizer and SimpleNamespace(**tokenizer))) == pad
    assert pad_id(toys.shared("llama")) == 258


def test_texts_are_encoded_once_for_all():
    model = toys.shared("llama")
    samples = [Sample("ab", "c"), Sample([256, 1], [2])]
    pairs = encode_samples(model, samples)
    assert pairs == encode_pairs(model, ["ab", [256, 1]], ["c", [2]])
    assert encode_pairs(model, ["ab"], [""]) == [(pairs[0][0], [])]
    assert encode_pairs(model, ["ab"]) == [(pairs[0][0], [])]
    with pytest.raises(DataError, match="1 continuations for 2"):
        encode_pairs(model, ["a", "b"], ["c"])
    with pytest.raises(DataError, match="target of sample 1 is empty"):
        encode_samples(model, [samples[0], Sample("x", "")])
    with pytest.raises(DataError, match="context"):
        encode_pairs(model, [[1] * toys.N_CTX], [[2]])
    assert isinstance(make_batches(model, pairs, 2)[0], Batch)
