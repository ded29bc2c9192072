"""Results as tables, from their fields alone."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

_PLAIN = (str, bool, numbers.Number, type(None), np.generic)


def frame_of(result: Any, rows: str = "") -> pd.DataFrame:
    """One row per item of the field `rows`, or of the only field that has several of them; else one row.

    Items are results in a tuple or by name (then `name` is a column), rows of a frame, or entries of one-dimensional
    arrays and tuples of one length, side by side (then `index` is one).
    """
    values = {
        f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.init and not f.metadata.get("live")
    }
    if rows:
        return _rows_of(values[rows])
    several = [value for value in values.values() if isinstance(value, pd.DataFrame) or _holds_results(value)]
    if len(several) == 1:
        return _rows_of(several[0])
    lists = {name: found for name, value in values.items() if (found := _as_list(value)) is not None}
    lengths = {len(found) for found in lists.values()}
    if not several and len(lengths) == 1 and lengths != {0}:
        return pd.DataFrame(lists).rename_axis("index").reset_index() if "index" not in lists else pd.DataFrame(lists)
    return pd.DataFrame([flat(result)])


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The columns of one row: plain fields by name, intervals as three, results inside with their name before them."""
    row: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        if field.metadata.get("live") or not field.init:
            continue
        _add(row, f"{prefix}{field.name}", getattr(value, field.name))
    return row


def _add(row: dict[str, Any], name: str, value: Any) -> None:
    names = [] if not dataclasses.is_dataclass(value) else [field.name for field in dataclasses.fields(value)]
    if isinstance(value, _PLAIN):
        row[name] = value
    elif names[:3] == ["value", "low", "high"]:
        row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    elif hasattr(value, "to_dict") and names:
        row |= flat(value, f"{name}.")
    elif names:  # a site, a setting: what it is called
        row[name] = str(value)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if isinstance(each, _PLAIN) or dataclasses.is_dataclass(each):
                _add(row, f"{name}.{key}", each)
    elif isinstance(value, tuple) and value and all(isinstance(each, str) for each in value):
        row[name] = ", ".join(value)


def _rows_of(value: Any) -> pd.DataFrame:
    if isinstance(value, pd.DataFrame):
        return value if isinstance(value.index, pd.RangeIndex) else value.reset_index()
    if isinstance(value, Mapping):
        return pd.DataFrame([{"name": str(name), **flat(each)} for name, each in value.items()])
    return pd.DataFrame([flat(each) for each in value])


def _holds_results(value: Any) -> bool:
    items = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, tuple) else []
    return bool(items) and all(hasattr(each, "to_dict") and dataclasses.is_dataclass(each) for each in items)


def _as_list(value: Any) -> Sequence[Any] | None:
    """The entries of a one-dimensional array, or of a tuple of plain values."""
    if isinstance(value, Tensor):
        return value.detach().cpu().tolist() if value.ndim == 1 else None
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim == 1 else None
    if isinstance(value, tuple) and value and all(isinstance(each, _PLAIN) for each in value):
        return list(value)
    return None
