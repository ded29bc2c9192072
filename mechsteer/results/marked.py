"""Plain data of values whose type no field names: each carries a mark of its kind, `{"$type": "tensor", ...}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mechsteer.errors import DataError

MARK = "$type"
_TENSORS = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    )
}
SCALARS = (bool, int, float, str, type(None))


def write_untyped(value: Any) -> Any:
    """Plain data of a value whose type nothing says."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, SCALARS):
        return value
    if isinstance(value, list):
        return [write_untyped(item) for item in value]
    if isinstance(value, tuple):
        return {MARK: "tuple", "items": [write_untyped(item) for item in value]}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and MARK not in value:
            return {key: write_untyped(item) for key, item in value.items()}
        return {MARK: "mapping", "pairs": [[write_untyped(key), write_untyped(item)] for key, item in value.items()]}
    if value is pd.NA:
        return {MARK: "NA"}
    for kind, (cls, write, _) in _KINDS.items():
        if isinstance(value, cls):
            return {MARK: kind, **write(value)}
    raise DataError(
        f"a {type(value).__name__} cannot become plain data where nothing says that it is one",
        "give the field its type, or make it with mechsteer.results.live()",
    )


def read_untyped(data: Any, _: Any = None) -> Any:
    if isinstance(data, list):
        return [read_untyped(item) for item in data]
    if not isinstance(data, Mapping):
        return data
    kind = data.get(MARK)
    if kind is None:
        return {key: read_untyped(item) for key, item in data.items()}
    if kind == "tuple":
        return tuple(read_untyped(item) for item in data["items"])
    if kind == "mapping":
        return {read_untyped(key): read_untyped(item) for key, item in data["pairs"]}
    if kind == "NA":
        return pd.NA
    if kind not in _KINDS:
        raise ValueError(f"unknown kind {kind!r}")
    return _KINDS[kind][2](data)


def _write_array(array: np.ndarray) -> dict[str, Any]:
    if array.dtype.kind not in "biufU" or (array.dtype.itemsize > 8 and array.dtype.kind == "f"):
        raise DataError(f"an array of {array.dtype} cannot become plain data", "numbers, booleans and strings can")
    return {"dtype": str(array.dtype), "shape": list(array.shape), "values": array.tolist()}


def _read_array(data: Mapping[str, Any]) -> np.ndarray:
    dtype = np.dtype(data["dtype"])
    if dtype.kind not in "biufU":
        raise ValueError(f"an array of {dtype}")
    return np.array(data["values"], dtype=dtype).reshape(data["shape"])


def _write_tensor(tensor: Tensor) -> dict[str, Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _TENSORS or tensor.layout != torch.strided:
        raise DataError(f"a tensor of {dtype}, {tensor.layout}, cannot become plain data", "dense real ones can")
    return {"dtype": dtype, "shape": list(tensor.shape), "values": tensor.detach().cpu().tolist()}


def _read_tensor(data: Mapping[str, Any]) -> Tensor:
    return torch.tensor(data["values"], dtype=_TENSORS[data["dtype"]]).reshape(data["shape"])


def _write_index(index: pd.Index) -> dict[str, Any]:
    if isinstance(index, pd.RangeIndex):
        return {"range": [index.start, index.stop, index.step], "name": write_untyped(index.name)}
    if isinstance(index, pd.MultiIndex):
        raise DataError("a frame with several index levels cannot become plain data", "reset_index() first")
    return {"name": write_untyped(index.name), **_write_column(index)}


def _read_index(data: Mapping[str, Any]) -> pd.Index:
    name = read_untyped(data["name"])
    if "range" in data:
        return pd.RangeIndex(*data["range"], name=name)
    return pd.Index(read_untyped(data["values"]), dtype=data["dtype"], name=name)


def _write_column(values: pd.Series | pd.Index) -> dict[str, Any]:
    if isinstance(values.dtype, pd.CategoricalDtype) or values.dtype.kind not in "biufOU":
        raise DataError(f"a column of {values.dtype} cannot become plain data", "numbers, booleans and strings can")
    return {"dtype": str(values.dtype), "values": [write_untyped(value) for value in values.tolist()]}


def _write_frame(frame: pd.DataFrame) -> dict[str, Any]:
    columns = [_write_column(frame.iloc[:, i]) for i in range(frame.shape[1])]
    return {"index": _write_index(frame.index), "names": _write_index(frame.columns), "columns": columns}


def _read_frame(data: Mapping[str, Any]) -> pd.DataFrame:
    index = _read_index(data["index"])
    series = [pd.Series(read_untyped(c["values"]), index=index, dtype=c["dtype"]) for c in data["columns"]]
    frame = pd.DataFrame(dict(enumerate(series)), index=index)
    frame.columns = _read_index(data["names"])
    return frame


# kind -> (class, to plain data, and back)
_KINDS: dict[str, tuple[type, Callable[[Any], dict[str, Any]], Callable[[Mapping[str, Any]], Any]]] = {
    "array": (np.ndarray, _write_array, _read_array),
    "tensor": (Tensor, _write_tensor, _read_tensor),
    "frame": (pd.DataFrame, _write_frame, _read_frame),
}
