"""From JSON to typed values: a frozen dataclass says what a header holds, and nothing else gets in.

Stricter than JSON libraries are by default: nothing is converted ("3" is no number, 1.0 no whole one), and a key too
many is as wrong as one too few. A union of dataclasses is told apart by the field `kind` alone, a Literal in each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from cattrs import BaseValidationError, Converter, transform_error
from cattrs.cols import list_structure_factory, mapping_structure_factory

from mechsteer.errors import FileFormatError

T = TypeVar("T")


def structured(data: object, cls: type[T], *, what: str, hint: str = "") -> T:
    """`data`, as `json.loads` gave it, as a `cls` (a dataclass of plain types, lists, dicts and other dataclasses).

    Raises FileFormatError naming `what`, every field that is wrong, and what was expected of it.
    """
    if type(data) is not dict:
        raise FileFormatError(f"{what} is a {type(data).__name__} where an object was written", hint)
    try:
        return _converter.structure(data, cls)
    except (BaseValidationError, TypeError, ValueError, LookupError) as error:
        reasons = transform_error(error, path=what) if isinstance(error, BaseValidationError) else [str(error)]
        raise FileFormatError(f"{what} is not as it was written: {'; '.join(reasons)}", hint) from error


def _exactly(*types: type) -> Callable[[Any, Any], Any]:
    def check(value: Any, wanted: Any) -> Any:
        if type(value) not in types:
            raise TypeError(f"a {type(value).__name__} where a {types[0].__name__} is expected")
        return wanted(value)

    return check


def _only_from(kind: type, structure: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`structure`, for values of this class alone: cattrs takes any iterable for a list, a string too."""

    def check(value: Any, wanted: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"a {type(value).__name__} where a {kind.__name__} is expected")
        return structure(value, wanted)

    return check


def _is_union_by_kind(wanted: Any) -> bool:
    return get_origin(wanted) is UnionType and all(map(dataclasses.is_dataclass, get_args(wanted)))


def _by_kind(union: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Structures as the dataclass whose `kind` is the value's: cattrs would go by which fields are there."""
    classes = get_args(union)
    by_kind = {kind: cls for cls in classes for kind in get_args(get_type_hints(cls)["kind"])}

    def structure(value: Any, _wanted: Any) -> Any:
        if type(value) is not dict:
            raise TypeError(f"a {type(value).__name__} where an object is expected")
        kind = value.get("kind")
        # of a kind that is none it is the first, which says what is wrong with it
        return converter.structure(value, by_kind.get(kind, classes[0]) if type(kind) is str else classes[0])

    return structure


def _strict() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    for kind in (str, bool, int):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _exactly(float, int))
    converter.register_structure_hook(int | float, lambda value, _wanted: _exactly(int, float)(value, type(value)))
    converter.register_structure_hook_factory(
        lambda wanted: get_origin(wanted) is list,
        lambda wanted: _only_from(list, list_structure_factory(wanted, converter)),
    )
    converter.register_structure_hook_factory(
        lambda wanted: get_origin(wanted) is dict,
        lambda wanted: _only_from(dict, mapping_structure_factory(wanted, converter)),
    )
    converter.register_structure_hook_factory(_is_union_by_kind, lambda wanted: _by_kind(wanted, converter))
    return converter


_converter = _strict()
