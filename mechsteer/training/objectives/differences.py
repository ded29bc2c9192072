"""How the two texts of contrastive pairs differ in the unsteered model, over the last tokens that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mechsteer.activations import capture
from mechsteer.models.sites import Site
from mechsteer.runtime.batches import Pair
from mechsteer.shapes import Mask

_HELD = 256  # texts that are held token by token


def row_ids(row: Pair) -> list[int]:
    """All token ids of a row."""
    return [*row[0], *row[1]]


def pair_differences(
    model: Any, rows: Sequence[Pair], sites: Sequence[Site], n_last: int, batch_size: int
) -> list[Tensor]:
    """At each site [n_pairs d_model]: the mean over the last `n_last` tokens, positive less negative.

    `rows` are positive, negative, positive, ...; the first token of a text does not count.
    """
    parts: list[list[Tensor]] = [[] for _ in sites]
    for start in range(0, len(rows), _HELD):
        texts = [row_ids(row) for row in rows[start : start + _HELD]]
        every = capture(model, texts, list(sites), batch_size=batch_size, progress=False)
        for part, acts in zip(parts, (every[site] for site in sites), strict=True):
            places = torch.arange(acts.values.shape[1])
            behind_first = (places > 0) & (places < acts.lengths[:, None])
            part.append(last_mean(acts.values.float(), behind_first, n_last))
    pooled = [torch.cat(part) for part in parts]
    return [each[::2] - each[1::2] for each in pooled]


def last_mean(acts: Tensor, where: Mask, n_last: int) -> Tensor:
    """[batch d] mean over the last `n_last` of the positions `where` [batch pos]."""
    counts = where.long().cumsum(1)
    last = where & (counts > counts[:, -1:] - n_last)
    return torch.where(last[..., None], acts, 0).sum(1) / last.sum(1, keepdim=True)
