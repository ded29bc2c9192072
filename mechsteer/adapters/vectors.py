"""A vector from whatever holds one: what adapters that add, project or clamp are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mechsteer.errors import NonFiniteError, ShapeError


def as_vector(value: Any, what: str = "a static adapter") -> Tensor:
    """A float tensor [d_model], or [head d_head]: from a tensor, an array, a list of numbers, or what has a `vector`.

    Of a matrix with one row (a classifier's `coef_`) that row. Raises ShapeError for anything else, NonFiniteError for
    NaN or infinity.
    """
    vector = getattr(value, "vector", value)
    if isinstance(vector, (np.ndarray, Sequence)) and not isinstance(vector, (str, bytes)):
        try:
            vector = torch.as_tensor(vector)
        except (TypeError, ValueError, RuntimeError):  # objects, ragged lists
            vector = value
    if not isinstance(vector, Tensor) or vector.ndim not in (1, 2) or not vector.is_floating_point() or not len(vector):
        got = f"shape {tuple(vector.shape)}, {vector.dtype}" if isinstance(vector, Tensor) else type(value).__name__
        raise ShapeError(
            f"{what} needs a float vector [d_model], got {got}",
            "pass a Direction, a tensor or an array [d_model], such as a probe's direction_",
        )
    if not bool(torch.isfinite(vector).all()):
        raise NonFiniteError("the vector holds NaN or infinity", "look at the activations it was computed from")
    return (vector[0] if vector.ndim == 2 and len(vector) == 1 else vector).detach().clone()
