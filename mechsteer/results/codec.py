"""The codec: how values of each type go to plain data and come back, and when two values are the same.

Types without a rule here are cattrs' own.
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, TypeVar, Union, cast, get_args, get_origin

import cattrs
import numpy as np
import pandas as pd
from cattrs.errors import StructureHandlerNotFoundError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from torch import Tensor

from mechsteer.errors import DataError, FileFormatError
from mechsteer.results.marked import MARK, SCALARS, read_untyped, write_untyped

T = TypeVar("T")


_REFUSALS = (cattrs.BaseValidationError, StructureHandlerNotFoundError)


def live() -> Any:
    """A field of a result for what cannot travel: not in plain data, not compared, None in a result that was read."""
    return dataclasses.field(default=None, compare=False, repr=False, metadata={"live": True})


def to_plain(value: Any, cls: Any = None) -> Any:
    """`value` as plain data. `cls`: its type (`tuple[Interval, ...]`), needed where it is no dataclass itself.

    Raises DataError for what cannot travel.

    >>> to_plain({"k": (1, 2)})
    {'k': {'$type': 'tuple', 'items': [1, 2]}}
    """
    if cls is None:
        cls = type(value) if dataclasses.is_dataclass(value) else Any
    return _codec.unstructure(value, unstructure_as=cls)


def from_plain(cls: type[T], data: Any) -> T:
    """The inverse of `to_plain`. Raises FileFormatError for data that are not those of a `cls`.

    >>> from_plain(tuple[float, ...], [1, 0.5])
    (1.0, 0.5)
    """
    try:
        return _codec.structure(data, cls)
    except (*_REFUSALS, ValueError, TypeError, KeyError, AttributeError) as error:
        problems = "; ".join(cattrs.transform_error(error, path=getattr(cls, "__name__", str(cls))))
        raise FileFormatError(
            f"these are not the data of a {getattr(cls, '__name__', cls)}: {problems}",
            "they were changed, or written by another version of mechsteer: make the result again",
        ) from error


def to_json(value: Any, cls: Any = None, *, indent: int | None = 1) -> str:
    """`to_plain` as text: fields in the order of the class, mappings in their own; equal values give equal bytes."""
    data = to_plain(value, cls)
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    # a lone surrogate, which a byte-level tokenizer can give, is no text that a file can hold
    safe = text.isascii() or text.encode("utf-8", "replace").decode("utf-8") == text
    return (text if safe else json.dumps(data, indent=indent)) + "\n"


def from_json(cls: type[T], text: str) -> T:
    """The inverse of `to_json`. Raises FileFormatError for text that is not JSON, or not that of a `cls`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"this is not JSON: {error}", "the file is damaged: make the result again") from error
    return from_plain(cls, data)


def same(a: Any, b: Any) -> bool:
    """Equal, with NaN equal to NaN, and arrays, tensors and frames compared whole: type, dtype, shape, values.

    >>> same({"x": (1.0, float("nan"))}, {"x": (1.0, float("nan"))}), same(np.ones(2), np.ones(2, np.float32))
    (True, False)
    """
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        if type(a) is not type(b):
            return False
        compared = [field.name for field in dataclasses.fields(a) if field.compare]
        return all(same(getattr(a, name), getattr(b, name)) for name in compared)
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        x, y = a.detach().cpu(), b.detach().cpu()
        return bool(((x == y) | ((x != x) & (y != y))).all())
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and same(a.tolist(), b.tolist()) and a.shape == b.shape
    if isinstance(a, pd.DataFrame):
        return isinstance(b, pd.DataFrame) and a.equals(b) and a.index.names == b.index.names
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        alike = isinstance(b, tuple if isinstance(a, tuple) else list) and len(a) == len(b)
        return alike and all(map(same, a, b))
    if _is_number(a) and _is_number(b):
        return bool(a == b) or (a != a and b != b)
    return type(a) is type(b) and bool(a == b)


def plain(value: Any) -> Any:
    """`value` as any JSON can hold it, for reading only: arrays to lists, NaN and infinity to None.

    >>> plain({"auroc": np.float64("nan"), "n": np.int64(3), "bars": np.array([[0.0, np.inf]])})
    {'auroc': None, 'n': 3, 'bars': [[0.0, None]]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if not field.metadata.get("live")]
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, Tensor)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_marked(hint: Any) -> bool:
    """An array, tensor or frame, by its class or as jaxtyping names its shape."""
    cls = getattr(hint, "array_type", hint)
    return isinstance(cls, type) and issubclass(cls, (np.ndarray, Tensor, pd.DataFrame))


def _read_marked(data: Any, hint: Any) -> Any:
    value = read_untyped(data)
    if not isinstance(value, hint):  # jaxtyping compares dtype and number of axes too
        raise ValueError(f"no {getattr(hint, '__name__', hint)}")
    return value


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _is_scalar(hint: Any) -> bool:
    """A number, string, boolean, or a union of such."""
    return hint in SCALARS or (_is_union(hint) and all(each in SCALARS for each in get_args(hint)))


def _scalar_hook(hint: Any) -> Callable[..., Any]:
    kinds = get_args(hint) if _is_union(hint) else (hint,)

    def scalar(value: Any, _: Any = None) -> Any:
        value = (
            value.item() if isinstance(value, np.generic) or (isinstance(value, Tensor) and not value.ndim) else value
        )
        if type(value) in kinds:
            return value
        if type(value) is int and float in kinds:
            return float(value)
        raise DataError(f"{value!r} where {' or '.join(kind.__name__ for kind in kinds)} is expected", "")

    return scalar


def _is_choice(hint: Any) -> bool:
    """A union of several dataclasses."""
    return _is_union(hint) and sum(map(dataclasses.is_dataclass, get_args(hint))) > 1


def _write_choice(value: Any) -> Any:
    return None if value is None else {MARK: type(value).__name__, **_codec.unstructure(value)}


def _read_choice(hint: Any) -> Callable[[Any, Any], Any]:
    classes = {each.__name__: each for each in get_args(hint)}

    def read(data: Any, _: Any) -> Any:
        if data is None and type(None) in classes.values():
            return None
        if not isinstance(data, Mapping):
            raise ValueError(f"a {type(data).__name__} where one of {list(classes)} is expected")
        fields = {key: item for key, item in data.items() if key != MARK}
        return _codec.structure(fields, classes[data[MARK]])

    return read


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _pair_of(hint: Any) -> tuple[Any, Any]:
    return cast("tuple[Any, Any]", get_args(hint) or (Any, Any))


def _write_mapping(hint: Any) -> Callable[[Any], Any]:
    key, item = _pair_of(hint)
    if key is Any:
        return write_untyped
    write_key, write = (_codec.get_unstructure_hook(each) for each in (key, item))
    if key is str:
        return lambda value: {write_key(k): write(v) for k, v in value.items()}
    return lambda value: {MARK: "mapping", "pairs": [[write_key(k), write(v)] for k, v in value.items()]}


def _read_mapping(hint: Any) -> Callable[[Any, Any], Any]:
    key, item = _pair_of(hint)
    if key is Any:
        return read_untyped
    read_key, read = (_codec.get_structure_hook(each) for each in (key, item))
    if key is str:
        return lambda data, _: {read_key(k, key): read(v, item) for k, v in data.items()}
    return lambda data, _: {read_key(k, key): read(v, item) for k, v in data["pairs"]}


def _has_own_form(hint: Any) -> bool:
    """A class that is no result and writes itself: a Site, a TokenScope."""
    if not isinstance(hint, type) or getattr(hint, "_by_fields", False):
        return False
    return callable(getattr(hint, "to_dict", None)) and callable(getattr(hint, "from_dict", None))


def _omitted(cls: Any) -> dict[str, Any]:
    """What says that `live` fields do not travel."""
    return {field.name: override(omit=True) for field in dataclasses.fields(cls) if field.metadata.get("live")}


def _write_fields(cls: Any) -> Callable[[Any], Any]:
    return make_dict_unstructure_fn(cls, _codec, **_omitted(cls))


def _read_fields(cls: Any) -> Callable[[Any, Any], Any]:
    make = make_dict_structure_fn(cls, _codec, _cattrs_forbid_extra_keys=True, **_omitted(cls))

    def read(data: Any, _: Any) -> Any:
        if not isinstance(data, Mapping):
            raise ValueError(f"a {type(data).__name__} where the fields of a {cls.__name__} are expected")
        return make(data, cls)

    return read


def _is_fields(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _make_codec() -> cattrs.Converter:
    codec = cattrs.Converter(
        forbid_extra_keys=True, unstruct_collection_overrides={tuple: list}, prefer_attrib_converters=False
    )
    # the last rule that fits is the one that is taken
    for kind in (bool, int, float, str):  # cattrs' own would take "1" for a number
        codec.register_unstructure_hook(kind, _scalar_hook(kind))
        codec.register_structure_hook(kind, _scalar_hook(kind))
    codec.register_unstructure_hook_func(lambda hint: hint is Any, write_untyped)
    codec.register_structure_hook_func(lambda hint: hint is Any, read_untyped)
    codec.register_unstructure_hook_factory(_is_fields, _write_fields)
    codec.register_structure_hook_factory(_is_fields, _read_fields)
    codec.register_unstructure_hook_factory(_is_scalar, _scalar_hook)
    codec.register_structure_hook_factory(_is_scalar, _scalar_hook)
    codec.register_unstructure_hook_factory(_is_mapping, _write_mapping)
    codec.register_structure_hook_factory(_is_mapping, _read_mapping)
    codec.register_unstructure_hook_func(_is_choice, _write_choice)
    codec.register_structure_hook_factory(_is_choice, _read_choice)
    codec.register_unstructure_hook_func(_has_own_form, lambda value: value.to_dict())
    codec.register_structure_hook_func(_has_own_form, lambda data, cls: cls.from_dict(data))
    codec.register_unstructure_hook_func(_is_marked, write_untyped)
    codec.register_structure_hook_func(_is_marked, _read_marked)
    return codec


_codec = _make_codec()
