"""Examples of any result, made of the types of its fields: NaN and infinity, odd keys, empty and typed arrays."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mechsteer.models.sites import Site
from mechsteer.results import Result

FLOATS = (0.5, -0.0, math.nan, math.inf, 1e-300, -12345.678901234567, 1 / 3)
TEXTS = ("", "plain", "−ünï漢\u200b\x00", '"</script>\\', "NaN", "$type", "\ud800")
LOOSE = (None, True, 3, 0.1, math.nan, "text", [1, (2, "x")], {"k": (1, 2)}, {3: "x"}, {"$type": "tuple"}, np.arange(3))


def example(hint: Any, rng: np.random.Generator) -> Any:
    """A value of the type `hint`."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return LOOSE[rng.integers(len(LOOSE))]
    if hint in (None, type(None)):
        return None
    if hint is float:
        return FLOATS[rng.integers(len(FLOATS))]
    if hint is int:
        return int(rng.integers(-5, 2**40))
    if hint is bool:
        return bool(rng.integers(2))
    if hint is str:
        return TEXTS[rng.integers(len(TEXTS))]
    if origin is Literal:
        return args[rng.integers(len(args))]
    if origin in (Union, types.UnionType):
        return example(args[rng.integers(len(args))], rng)
    if origin is tuple and args[-1] is not ...:
        return tuple(example(arg, rng) for arg in args)
    if origin in (tuple, list):
        return origin(example(args[0], rng) for _ in range(rng.integers(4)))
    if isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        key, value = args or (str, Any)
        return {example(key, rng): example(value, rng) for _ in range(rng.integers(4))}
    if hint is Site:
        return Site(int(rng.integers(9)) if rng.integers(2) else 0.5, "mlp_out")
    if isinstance(hint, type) and issubclass(hint, pd.DataFrame):
        return frame(rng)
    if dataclasses.is_dataclass(hint):
        return example_of(hint, rng)
    return array(hint, rng)


def array(hint: Any, rng: np.random.Generator) -> Any:
    """An array or tensor of the kind that jaxtyping names, or of any."""
    kind = getattr(hint, "array_type", hint)
    dtypes = list(getattr(hint, "dtypes", ("float64",)))
    known = [
        d
        for d in dtypes
        if d in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool", "bool_")
    ]
    dims = getattr(hint, "dim_str", "n").split()
    shape = [int(d) if d.isdigit() else int(rng.integers(4)) for d in dims]
    if issubclass(kind, Tensor):
        values = torch.tensor(rng.normal(size=shape) * 100)
        if values.numel() and "float64" in dtypes:
            values.flatten()[0] = math.nan
        return values.to(getattr(torch, known[rng.integers(len(known))].removesuffix("_")))
    known = [d for d in known if d != "bfloat16"]
    values = rng.normal(size=shape) * 100
    if values.size and "float64" in dtypes:
        values.flat[0] = math.nan
    return values.astype(known[rng.integers(len(known))].removesuffix("_"))


def frame(rng: np.random.Generator) -> pd.DataFrame:
    """A frame with a named index or none, missing values, and every kind of column."""
    n = int(rng.integers(4))
    table = pd.DataFrame(
        {
            "float": rng.normal(size=n),
            "nan": np.full(n, math.nan),
            "int": np.arange(n),
            "bool": np.arange(n) > 1,
            "text": pd.Series([None, "a", "−b"][:n] if n < 3 else [None, "a", "−b"], dtype="str"),
            "mixed": pd.Series([None, 1, "x"][:n], dtype=object),
            "whole": pd.array([1, None, 3][:n], dtype="Int64"),
        }
    )
    return table if rng.integers(2) else table.set_index("int").rename_axis("k")


def example_of(cls: type, rng: np.random.Generator) -> Any:
    """An instance of a dataclass, every field an example; a settings class with defaults has these."""
    fields = [f for f in dataclasses.fields(cls) if f.init and not f.metadata.get("live")]
    missing = (dataclasses.MISSING, dataclasses.MISSING)
    if not issubclass(cls, Result) and all((f.default, f.default_factory) != missing for f in fields):
        return cls()
    hints = get_type_hints(cls)
    return cls(**{f.name: example(hints[f.name], rng) for f in fields})
