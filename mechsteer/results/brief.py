"""A result in a line or two: numbers and names as they are, of everything longer its size."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

_LONG, _MANY, _DEEP = 60, 4, 2


def brief(value: Any, *, depth: int = 0) -> str:
    """A dataclass as its fields, each shortly: arrays by dtype and shape, long texts cut, many items counted.

    >>> brief({"loss": 0.123456789, "rows": list(range(100))})
    "{'loss': 0.1235, 'rows': list of 100}"
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value, depth)
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__.lower()} {list(value.shape)}"
    if isinstance(value, pd.DataFrame):
        return f"frame of {len(value)} rows, {len(value.columns)} columns"
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, numbers.Integral)):
        return f"{float(value):.4g}"
    if isinstance(value, (list, tuple, Mapping)):
        return _items(value, depth)
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."


def _fields(value: Any, depth: int) -> str:
    if depth and not getattr(type(value), "_by_fields", False):  # a site, a steering: says itself shortly
        return brief_text(repr(value))
    if depth >= _DEEP:
        return f"{type(value).__name__}(...)"
    fields = [f for f in dataclasses.fields(value) if f.repr and getattr(value, f.name) is not None]
    inside = ", ".join(f"{f.name}={brief(getattr(value, f.name), depth=depth + 1)}" for f in fields)
    return f"{type(value).__name__}({inside})"


def _items(value: Any, depth: int) -> str:
    if len(value) > _MANY or depth >= _DEEP:
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{brief(key)}: {brief(item, depth=depth + 1)}" for key, item in value.items())
        return f"{{{inside}}}"
    inside = ", ".join(brief(item, depth=depth + 1) for item in value)
    return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"


def brief_text(text: str) -> str:
    """A text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= 2 * _LONG else f"{line[: 2 * _LONG - 3]}..."
