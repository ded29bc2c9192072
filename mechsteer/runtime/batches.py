"""Teacher-forced rows side by side: one padding, one batch, for training, attribution, calibration and capture.

Prompts with targets are aligned where the targets begin, so that all prompts end at one column:

pad pad p0 p1 p2 | t0 t1 pad
p0  p1  p2 p3 p4 | t0 t1 t2
              ^ the column `n_prompt - 1` predicts the first target token in every row
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.models import backend_of, tokenize, tokenize_continuation
from mechsteer.runtime.scopes import Context
from mechsteer.shapes import Lengths, Mask, Tokens

Pair = tuple[list[int], list[int]]  # prompt ids, target ids
Align = Literal["left", "right", "targets"]  # where rows stand flush: at their beginnings, ends, or first targets


@dataclass(frozen=True)
class Sample:
    """One training example: strings, or token ids that are taken as they are."""

    prompt: str | Sequence[int]
    target: str | Sequence[int]


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Rows in one forward. A batch without targets (neutral text) is prompt from end to end."""

    tokens: Tokens
    mask: Mask  # real tokens
    prompt_lengths: Lengths  # in real tokens
    rows: Lengths  # index of each row among all samples of the call
    n_prompt: int | None = None  # the column where targets begin; None where it is not the same in all rows

    @cached_property
    def attention_mask(self) -> Tensor | None:
        """[batch pos] long, or None where nothing is padded."""
        return None if bool(self.mask.all()) else self.mask.long()

    @property
    def is_target(self) -> Mask:
        """Real tokens from the prompt's length on."""
        return self.mask & (self.mask.long().cumsum(1) > self.prompt_lengths[:, None])

    @cached_property
    def predicts_target(self) -> Mask:
        """Positions whose next token is a target token, the last prompt position included."""
        return torch.nn.functional.pad(self.is_target[:, 1:], (0, 1))

    @property
    def next_tokens(self) -> Tokens:
        """[batch pos] the token after each position; of no meaning in the last column."""
        return self.tokens.roll(-1, 1)

    def context(self) -> Context:
        """What a scope asks about the whole batch in one forward."""
        return Context.whole(
            *self.tokens.shape,
            attention_mask=self.attention_mask,
            prompt_lengths=self.prompt_lengths,
            tokens=self.tokens,
            rows=self.rows,
            device=self.tokens.device,
        )


def encode_samples(model: Any, samples: Sequence[Sample]) -> list[Pair]:
    """(prompt ids, target ids) per sample; a target string gets no BOS.

    Raises DataError for empty prompts or targets and for samples longer than the model's context.
    """
    if not samples:
        raise DataError("there are no samples", "pass at least one Sample(prompt, target)")
    pairs = encode_pairs(model, [s.prompt for s in samples], [s.target for s in samples])
    for i, (_, target) in enumerate(pairs):
        if not target:
            raise DataError(f"the target of sample {i} is empty", "remove samples without a target")
    return pairs


def encode_pairs(
    model: Any, prompts: Sequence[str | Sequence[int]], continuations: Sequence[str | Sequence[int]] | None = None
) -> list[Pair]:
    """(prompt ids, continuation ids) per row. Continuation strings get no BOS; an empty one is allowed.

    Raises DataError for what `tokenize` refuses, and where the two lists differ in length.
    """
    rows = tokenize(model, prompts)
    if continuations is None:
        return [(row, []) for row in rows]
    if len(continuations) != len(rows):
        raise DataError(f"{len(continuations)} continuations for {len(rows)} prompts", "give one per prompt")
    pairs = [(row, list(tokenize_continuation(model, text))) for row, text in zip(rows, continuations, strict=True)]
    tokenize(model, [prompt + target for prompt, target in pairs])  # checks ids and lengths
    return pairs


def make_batches(
    model: Any,
    pairs: Sequence[Pair],
    batch_size: int,
    order: Sequence[int] | None = None,
    *,
    align: Align = "targets",
) -> list[Batch]:
    """Batches of (prompt ids, target ids) in `order` (default: as they come); targets may be empty.

    Causal attention keeps padding behind a row out of every real token; padding before one is masked.
    """
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}", "at least one row a batch")
    order = range(len(pairs)) if order is None else order
    device, pad = backend_of(model).device, pad_id(model)
    batches = []
    for begin in range(0, len(order), batch_size):
        group = list(order[begin : begin + batch_size])
        rows = [prompt + target for prompt, target in (pairs[i] for i in group)]
        lengths = [len(pairs[i][0]) for i in group]
        tokens, mask = pad_rows(rows, pad, align=lengths if align == "targets" else align)
        batch = Batch(
            tokens=tokens.to(device),
            mask=mask.to(device),
            prompt_lengths=torch.tensor(lengths, device=device),
            rows=torch.tensor(group, device=device),
            n_prompt=max(lengths) if align == "targets" else None,
        )
        batches.append(batch)
    return batches


def by_length(pairs: Sequence[Pair]) -> list[int]:
    """An order in which rows of similar length are neighbours: less padding."""
    return sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))


def pad_rows(rows: Sequence[Sequence[int]], pad: int, *, align: Align | Sequence[int] = "left") -> tuple[Tokens, Mask]:
    """(tokens, is_real) [batch pos] of rows of token ids: see `pad_packed`."""
    flat = torch.tensor([token for row in rows for token in row], dtype=torch.long)
    return pad_packed(flat, torch.tensor([len(row) for row in rows]), pad, align=align)


def pad_packed(
    flat: Tensor, lengths: Tensor, pad: int, *, align: Align | Sequence[int] = "left"
) -> tuple[Tokens, Mask]:
    """(tokens, is_real) [batch pos] of rows that lie end to end in `flat` [n_tokens].

    `align`: "left" (all begin in the first column), "right" (all end in the last one), or one offset per row:
    that token of every row stands in the same column.
    """
    if isinstance(align, str):
        assert align in ("left", "right")
        anchors = torch.zeros_like(lengths) if align == "left" else lengths
    else:
        anchors = torch.as_tensor(align)
    first = anchors.max() - anchors
    columns = torch.arange(int((first + lengths).max()))
    real = (columns >= first[:, None]) & (columns < (first + lengths)[:, None])
    tokens = torch.full(real.shape, pad)
    tokens[real] = flat.long()
    return tokens, real


def pad_id(model: Any) -> int:
    """The token id that fills what is padded; 0 where the tokenizer names none. It is masked, and any would do."""
    pad = getattr(model.tokenizer, "pad_token_id", None)
    return 0 if pad is None else int(pad)
