"""Readings token by token: where a steering acted, how far a gate was open, what a probe said."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mechsteer.errors import ShapeError
from mechsteer.report.blocks import Block, Text
from mechsteer.report.heatmaps import Heatmap
from mechsteer.report.report import Section
from mechsteer.report.tables import number

STEERED = "What the steering added at each token: the norm of its delta. White is nothing, or not read."


def readings(
    tokens: Sequence[Sequence[str]],
    values: Tensor | Sequence[ArrayLike],
    *,
    label: str,
    what: str = "",
    title: str = "",
    names: Sequence[str] = (),
    common_scale: bool = True,
) -> list[Section]:
    """One heatmap per text: `tokens` as strings, `values` [n_texts pos] or one row each, right-padded or not.

    A reading of several numbers a token, [n_texts pos k], gives one heatmap per number. NaN is left white. With
    `common_scale` one value has one colour in all texts of a number. `names`: of the texts ("text 1", ...).
    Raises ShapeError where a text has more tokens than values.
    """
    rows = [_row(i, text, values[i]) for i, text in enumerate(tokens)]  # each [n_tokens k]
    blocks: list[Block] = [Text(what)] if what else []
    widest = max((row.shape[1] for row in rows), default=1)
    for part in range(widest):
        own = label if widest == 1 else f"{label} {part}"
        shown = [row[:, part] for row in rows]
        scale = _largest(shown) if common_scale else None
        for i, (text, row) in enumerate(zip(tokens, shown, strict=True)):
            name = names[i] if i < len(names) else f"text {i + 1}"
            caption = f"{name}: {own} per token, strongest {_strongest(text, row)}"
            blocks.append(Heatmap(list(text), row, caption=caption, label=own, scale=scale))
    return [Section(title or f"{label[0].upper()}{label[1:]}, token by token", blocks)]


def where_steered(
    tokens: Sequence[Sequence[str]], delta_norm: Tensor | Sequence[ArrayLike], *, names: Sequence[str] = ()
) -> list[Section]:
    """Where a steering acted, from the reading "delta_norm" of `generate(record=True)`, [n_texts pos]."""
    return readings(tokens, delta_norm, label="‖delta‖", what=STEERED, title="Where it was steered", names=names)


def _row(i: int, text: Sequence[str], values: Tensor | ArrayLike) -> np.ndarray:
    array = values.detach().cpu().to(torch.float64).numpy() if isinstance(values, Tensor) else np.asarray(values, float)
    if array.ndim not in (1, 2) or len(array) < len(text):
        raise ShapeError(
            f"text {i} has {len(text)} tokens and values of shape {list(array.shape)}", "give [pos] or [pos k] per text"
        )
    return array[: len(text)].reshape(len(text), -1)


def _largest(rows: Sequence[np.ndarray]) -> float | None:
    known = [float(np.nanmax(np.abs(row))) for row in rows if np.isfinite(row).any()]
    return max(known, default=0.0) or None


def _strongest(text: Sequence[str], row: np.ndarray) -> str:
    if not np.isfinite(row).any():
        return "undefined"
    i = int(np.nanargmax(np.abs(row)))
    return f"{text[i]!r} ({number(float(row[i]))})" if not math.isnan(row[i]) else "undefined"
