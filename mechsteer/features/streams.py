"""Activations as a stream of rows: what trains and measures an SAE, from whatever holds them.

store[site], acts[site]            as `capture` gives them: their analysed tokens, no pads, no BOS
a tensor or array [n d_in]         all of it
a list or iterable of chunks, or a function that returns a fresh iterator of them
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mechsteer.errors import DataError, ShapeError

Batches = Iterable[Tensor] | Callable[[], Iterable[Tensor]]
Activations = Any  # of one site, in memory or on disk; named by what they can do: features know no models

CHUNK = 4096  # rows


def as_batches(source: Any) -> Batches:
    """A stream [n d_in] that can be read again and again where `source` can. Raises DataError for what is none."""
    if isinstance(source, np.ndarray):
        source = torch.from_numpy(source)
    if isinstance(source, Tensor):
        return source.split(CHUNK) if source.ndim == 2 else [source]  # of another shape: refused where it is read
    if hasattr(source, "flat_batches"):
        return lambda: (chunk.flatten(1) for chunk in source.flat_batches(CHUNK))  # heads side by side
    if hasattr(source, "flat") and hasattr(source, "mask"):
        return source.flat().flatten(1).float().split(CHUNK)
    if isinstance(source, Mapping):
        raise DataError(
            "these are activations of several sites" if len(source) != 1 else "these are activations by site",
            "choose one: train_sae(acts[site])",
        )
    if isinstance(source, (str, bytes)) or not (callable(source) or isinstance(source, Iterable)):
        raise DataError(
            f"{type(source).__name__} is no stream of activations",
            "pass store[site] or acts[site], tensors [n d_in] in a list, or a function that returns an iterator of them",
        )
    return cast("Batches", source)


def width_of(batches: Batches) -> int:
    """d_in of a stream: the length of its first row. Raises DataError for an empty one, or one that is read by looking."""
    if not callable(batches) and isinstance(batches, Iterator):
        raise DataError("d_in of an iterator is not known before it is read", "pass d_in=")
    for chunk in batches() if callable(batches) else batches:
        if not isinstance(chunk, Tensor) or chunk.ndim != 2:
            shape = tuple(chunk.shape) if isinstance(chunk, Tensor) else f"a {type(chunk).__name__}"
            raise ShapeError(f"a batch of activations is {shape}", "expected floating point [n d_in]")
        return chunk.shape[1]
    raise DataError("the stream of activations is empty", "pass at least one batch [n d_in]")


def origin_of(source: Any) -> dict[str, Any]:
    """What stored activations say of themselves, as `load_sae` compares it: "site" and "model_fingerprint"."""
    found = {}
    if hasattr(source, "flat_batches") or (hasattr(source, "flat") and hasattr(source, "site")):
        found["site"] = str(source.site)
        if (fingerprint := getattr(getattr(source, "store", None), "fingerprint", None)) is not None:
            found["model_fingerprint"] = fingerprint
    return found
