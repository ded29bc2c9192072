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
    arrays, tuples and lists of one length, two of them or more, side by side (then `index` is one; of lists in a list
    the lengths are told, `n_tokens`).
    """
    values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if not f.metadata.get("live")}
    if rows:
        return rows_of(values[rows])
    several = [value for value in values.values() if isinstance(value, pd.DataFrame) or _holds_results(value)]
    if len(several) == 1:
        return rows_of(several[0])
    lists = dict(found for name, value in values.items() if (found := _as_list(name, value)) is not None)
    if not several and len(lists) > 1 and len({len(found) for found in lists.values()}) == 1:
        return pd.DataFrame({"index": range(len(next(iter(lists.values())))), **lists})
    return pd.DataFrame([flat(result)])


def rows_of(value: Any) -> pd.DataFrame:
    """Results in a tuple or by name, or a frame, as rows."""
    if isinstance(value, pd.DataFrame):
        return value if isinstance(value.index, pd.RangeIndex) else value.reset_index()
    if isinstance(value, Mapping):
        return pd.DataFrame([{"name": _safe(str(name)), **flat(each)} for name, each in value.items()])
    return pd.DataFrame([flat(each) for each in value])


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The columns of one row: plain fields by name, intervals as three, results inside with their name before them."""
    row: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        if not field.metadata.get("live"):
            _add(row, f"{prefix}{field.name}", getattr(value, field.name))
    return row


def _add(row: dict[str, Any], name: str, value: Any) -> None:
    name = _safe(name)
    if isinstance(value, _PLAIN):
        row[name] = _safe(value)
    elif _is_result(value):
        names = [field.name for field in dataclasses.fields(value)]
        if names[:3] == ["value", "low", "high"]:  # an interval
            row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            row |= flat(value, f"{name}.")
    elif dataclasses.is_dataclass(value):  # a site, a setting: what it is called
        row[name] = _safe(str(value))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if isinstance(each, _PLAIN) or dataclasses.is_dataclass(each):
                _add(row, f"{name}.{key}", each)
    elif isinstance(value, tuple) and value and all(isinstance(each, str) for each in value):
        row[name] = _safe(", ".join(value))


def _is_result(value: Any) -> bool:
    return getattr(type(value), "_by_fields", False)


def _holds_results(value: Any) -> bool:
    items = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, tuple) else []
    return bool(items) and all(map(_is_result, items))


def _as_list(name: str, value: Any) -> tuple[str, Sequence[Any]] | None:
    """A column: the entries of a one-dimensional array, or of a list or tuple of plain values; of lists the lengths."""
    if isinstance(value, Tensor):
        return (name, value.detach().cpu().tolist()) if value.ndim == 1 else None
    if isinstance(value, np.ndarray):
        return (name, value.tolist()) if value.ndim == 1 else None
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if all(isinstance(each, _PLAIN) for each in value):
        return name, [_safe(each) for each in value]
    if all(isinstance(each, (list, tuple)) for each in value):
        return f"n_{name}", [len(each) for each in value]
    return None


def _safe(value: Any) -> Any:
    """Text without lone surrogates, which neither a column nor a file can hold."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
