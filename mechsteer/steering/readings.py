"""Readings of a generation: what interventions and observations noted, laid out by row and position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mechsteer.errors import ShapeError
from mechsteer.runtime.context import Context
from mechsteer.runtime.session import Session


@dataclass(frozen=True, kw_only=True)
class TokenReadings:
    """One prompt and its new tokens as they read, with a value (or k of them) each: what a token heatmap draws."""

    tokens: list[str]
    values: Tensor  # [n_tokens ...] float32, NaN where nothing was noted


Place = tuple[Session, int]  # a recording session and which of its interventions


def last_readings(places: Sequence[Place | None], slots: Sequence[int]) -> list[dict[str, Tensor]]:
    """Per intervention: name -> [n_slots ...] at the last position of these rows of the latest forward."""
    noted = [{} if place is None else place[0].readings[place[1]] for place in places]
    return [
        {name: _plain(series[-1][slots, -1]) for name, series in of_one.items() if series and series[-1] is not None}
        for of_one in noted
    ]


def gather_readings(places: Sequence[Place | None], ends: Sequence[int]) -> list[dict[str, Tensor]]:
    """Per intervention: name -> [n_rows pos ...] over all forwards; NaN where nothing was noted, and from `ends` on.

    Raises ShapeError where a reading has not the same number of values in every forward.
    """
    result: list[dict[str, Tensor]] = []
    for place in places:
        of_one: dict[str, Tensor] = {}
        if place is not None:
            session, i = place
            of_one = {name: _lay_out(name, v, session.contexts, ends) for name, v in session.readings[i].items()}
        result.append(of_one)
    return result


def _lay_out(name: str, series: Sequence[Tensor | None], contexts: Sequence[Context], ends: Sequence[int]) -> Tensor:
    """One reading's values [batch pos ...] per forward as [n_rows pos ...]."""
    shapes = {values.shape[2:] for values in series if values is not None}
    if len(shapes) > 1:
        raise ShapeError(
            f"the reading {name!r} has {sorted(map(tuple, shapes))} values per token in different forwards",
            "note the same number of values in every forward",
        )
    last = torch.tensor(ends)
    whole = torch.full((len(ends), max(ends), *shapes.pop()), math.nan)
    for values, ctx in zip(series, contexts, strict=True):
        if values is None:
            continue
        assert ctx.rows is not None  # hinted
        rows, positions = ctx.rows.cpu()[:, None].expand(*ctx.positions.shape), ctx.positions.cpu()
        at = ctx.mask.cpu() & (positions < last[rows])  # a row that has stopped may run on until it leaves
        whole[rows[at], positions[at]] = _plain(values)[at]
    return whole


def _plain(values: Tensor) -> Tensor:
    """float32 on the CPU, free to be used anywhere (a tensor of inference mode is not)."""
    return values.detach().clone().float().cpu()
