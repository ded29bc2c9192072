"""One vector per prompt: the last token, the mean or the largest value over the analysed tokens, or at a marker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, DataError
from mechsteer.shapes import Lengths, Mask, Tokens

Pooling = Literal["last", "mean", "max", "marker"]
Marker = int | Sequence[int]
"""A token id, or several that come one after the other"""


def pooled(
    values: Tensor,
    tokens: Tokens,
    mask: Mask,
    lengths: Lengths,
    prompt_ids: Sequence[Any],
    how: Pooling,
    marker: Marker | None = None,
) -> Tensor:
    """[n_prompts d_model] in float32 of values [n_prompts pos d_model]; see `Activations.pool`.

    Raises DataError (an unknown `how`, a prompt of which nothing is analysed, or that lacks the marker), ConfigError
    (a marker where none is asked for, or none where one is).
    """
    if how not in get_args(Pooling):
        raise DataError(f"unknown pooling {how!r}", f"it is one of {list(get_args(Pooling))}")
    ids = [marker] if isinstance(marker, int) else list(marker or ())
    if (how == "marker") != bool(ids):
        raise ConfigError(
            f"pooling {how!r} with marker={marker!r}", 'give token ids with how="marker", and with that alone'
        )
    counts = mask.sum(1)
    if not bool((counts > 0).all()):
        empty = prompt_ids[int((counts == 0).nonzero()[0])]
        raise DataError(f"prompt {empty!r} has no token but BOS", "leave it out")
    rows = torch.arange(len(values))
    if how == "last":
        return values[rows, lengths - 1].float()
    if how == "marker":
        return values[rows, _last_marker(tokens, mask, ids, prompt_ids)].float()
    inside = mask.reshape(*mask.shape, *[1] * (values.ndim - 2))
    if how == "max":
        return values.float().masked_fill(~inside, -torch.inf).amax(1)
    return (values.float() * inside).sum(1) / counts.reshape(-1, *[1] * (values.ndim - 2))


def _last_marker(tokens: Tensor, mask: Tensor, ids: list[int], prompt_ids: Sequence[Any]) -> Tensor:
    """[n_prompts] the position at which the marker ends for the last time."""
    at = torch.ones_like(mask)
    for back, token in enumerate(reversed(ids)):
        here = (tokens == token) & mask
        at &= here if not back else torch.nn.functional.pad(here[:, :-back], (back, 0))
    if not bool(at.any(1).all()):
        lacks = prompt_ids[int((~at.any(1)).nonzero()[0])]
        raise DataError(f"prompt {lacks!r} has no marker {ids}", "leave it out, or choose another marker")
    return at.shape[1] - 1 - at.flip(1).int().argmax(1)
