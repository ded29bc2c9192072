"""Samples and padded batches: prompts left-padded, targets right-padded, so that all prompts end at one column.

pad pad p0 p1 p2 | t0 t1 pad
p0  p1  p2 p3 p4 | t0 t1 t2
              ^ the column `n_prompt - 1` predicts the first target token in every row
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.models import backend_of, tokenize, tokenize_continuation
from mechsteer.runtime.scopes import Context
from mechsteer.shapes import Lengths, Mask, Tokens


@dataclass(frozen=True)
class Sample:
    """One training example: strings, or token ids that are taken as they are."""

    prompt: str | Sequence[int]
    target: str | Sequence[int]


@dataclass(frozen=True)
class Batch:
    """Rows in one forward. A batch without targets (neutral text) is prompt from end to end."""

    tokens: Tokens
    mask: Mask  # real tokens
    prompt_lengths: Lengths  # in real tokens
    n_prompt: int  # the column where targets begin
    rows: Lengths  # index of each row among all samples of the call

    @property
    def attention_mask(self) -> Tensor | None:
        """[batch pos] long, or None where nothing is padded."""
        return None if bool(self.mask.all()) else self.mask.long()

    @property
    def predicts_target(self) -> Mask:
        """Positions whose next token is a target token, the last prompt position included."""
        is_target = self.mask.clone()
        is_target[:, : self.n_prompt] = False
        return torch.nn.functional.pad(is_target[:, 1:], (0, 1))

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


def encode_samples(model: Any, samples: Sequence[Sample]) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, target ids) per sample; a target string gets no BOS.

    Raises DataError for empty prompts or targets and for samples longer than the model's context.
    """
    if not samples:
        raise DataError("there are no samples", "pass at least one Sample(prompt, target)")
    prompts = tokenize(model, [s.prompt for s in samples])
    pairs = []
    for i, (sample, prompt) in enumerate(zip(samples, prompts, strict=True)):
        target = tokenize_continuation(model, sample.target)
        if not target:
            raise DataError(f"the target of sample {i} is empty", "remove samples without a target")
        tokenize(model, [prompt + target])  # checks ids and length
        pairs.append((prompt, target))
    return pairs


def make_batches(
    model: Any, pairs: Sequence[tuple[list[int], list[int]]], batch_size: int, order: Sequence[int] | None = None
) -> list[Batch]:
    """Batches of (prompt ids, target ids) in `order` (default: as they come); targets may be empty."""
    order = range(len(pairs)) if order is None else order
    groups = [list(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    return [_batch(model, [pairs[i] for i in group], group) for group in groups]


def _batch(model: Any, pairs: list[tuple[list[int], list[int]]], rows: list[int]) -> Batch:
    device = backend_of(model).device
    pad = getattr(model.tokenizer, "pad_token_id", None) or 0
    n_prompt, n_target = max(len(p) for p, _ in pairs), max(len(t) for _, t in pairs)
    tokens = torch.full((len(pairs), n_prompt + n_target), pad)
    mask = torch.zeros(len(pairs), n_prompt + n_target, dtype=torch.bool)
    for i, (prompt, target) in enumerate(pairs):
        begin, end = n_prompt - len(prompt), n_prompt + len(target)
        tokens[i, begin:end] = torch.tensor(prompt + target)
        mask[i, begin:end] = True
    lengths = torch.tensor([len(p) for p, _ in pairs])
    return Batch(tokens.to(device), mask.to(device), lengths.to(device), n_prompt, torch.tensor(rows, device=device))
