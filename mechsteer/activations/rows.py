"""The prompts of a capture as packed token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.models import Truncate, tokenize
from mechsteer.runtime.batches import pad_packed


@dataclass(frozen=True)
class Rows:
    """Token ids of all prompts, packed: 4 bytes a token, so that a million prompts fit."""

    tokens: np.ndarray  # int32 [n_tokens]
    lengths: np.ndarray  # int64 [n_prompts]
    offsets: np.ndarray  # int64 [n_prompts + 1]

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.lengths.tobytes() + self.tokens.tobytes()).hexdigest()[:24]

    def is_kept(self, bos: int | None) -> np.ndarray:
        """bool [n_tokens]: not a BOS at the beginning of a row."""
        kept = np.ones(self.n_tokens, dtype=bool)
        starts = self.offsets[:-1]
        if bos is not None:
            kept[starts] = self.tokens[starts] != bos
        return kept

    def span(self, begin: int, end: int) -> slice:
        """Where the tokens of prompts begin .. end - 1 lie."""
        return slice(int(self.offsets[begin]), int(self.offsets[end]))

    def padded(self, index: list[int], pad: int) -> tuple[Tensor, Tensor]:
        """(tokens, is_real) [len(index) pos] of some prompts, right-padded."""
        flat = np.concatenate([self.tokens[self.span(i, i + 1)] for i in index])
        return pad_packed(torch.from_numpy(flat), torch.from_numpy(self.lengths[index]), pad)


def tokenized(
    model: Any, prompts: Sequence[str | Sequence[int]], chunk: int = 256, *, truncate: Truncate | None = None
) -> Rows:
    if isinstance(prompts, str) or len(prompts) == 0:
        tokenize(model, prompts)  # raises
    tokens, lengths = [], []
    for start in range(0, len(prompts), chunk):
        try:
            ids = tokenize(model, prompts[start : start + chunk], truncate=truncate)
        except DataError:
            tokenize(model, prompts, truncate=truncate)  # raises the same with the prompt's true number
            raise
        tokens += [np.asarray(row, dtype=np.int32) for row in ids]
        lengths += [len(row) for row in ids]
    sizes = np.asarray(lengths, dtype=np.int64)
    return Rows(np.concatenate(tokens), sizes, np.concatenate([[0], np.cumsum(sizes)]))


def shard_bounds(lengths: np.ndarray, shard_size: int) -> list[int]:
    """First prompt of each shard, and the end: as many whole prompts as fit into `shard_size` tokens, at least one."""
    bounds, used = [0], 0
    for i, length in enumerate(lengths.tolist()):
        if used and used + length > shard_size:
            bounds.append(i)
            used = 0
        used += length
    return [*bounds, len(lengths)]
