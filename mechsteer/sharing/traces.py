"""What an engine writes: the tokens of highest logit, one after the other under a cache, with the logits of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# (tokens [1 pos], the cache so far) -> (logits [1 pos d_vocab], the cache)
Forward = Callable[[Tensor, Any], tuple[Tensor, Any]]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One prompt continued."""

    tokens: list[int]
    logits: Tensor  # [n_tokens d_vocab] float32: of each token before it was taken; NaN where the engine does not tell
    is_log_probs: bool = False  # they are known up to a constant per position alone


@torch.no_grad()
def greedy(forward: Forward, prompt: Sequence[int], n_tokens: int) -> Trace:
    """Continue a prompt by `n_tokens` tokens; no token stops it, so that engines are compared over equal lengths."""
    current, cache = torch.tensor([list(prompt)]), None
    tokens, logits = [], []
    for _ in range(n_tokens):
        out, cache = forward(current, cache)
        logits.append(out[0, -1].float().cpu())
        tokens.append(int(logits[-1].argmax()))
        current = torch.tensor([tokens[-1:]])
    return Trace(tokens=tokens, logits=torch.stack(logits))
