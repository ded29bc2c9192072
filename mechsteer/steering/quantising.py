"""Fewer bits per number in a steering file, and what that loses of each tensor.

    float16   W rounded to float16
    int8      matrices: q = round(W / s) with one scale per output row, s = max |W_row| / 127 rounded up to float16,
              so that |q s - W| <= s / 2; vectors, which have no rows, are float16

Whole numbers, truth values and single numbers stay as they are. What is read back is float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, FileFormatError, NonFiniteError
from mechsteer.steering.header import TensorError

Quantisation = Literal["float16", "int8"]
SCALE = ":scale"  # behind a tensor's name: no parameter's name has a colon
_LARGEST = 127  # of int8; -128 is left out, so that both signs reach as far


def quantised(tensors: Mapping[str, Tensor], to: Quantisation) -> tuple[dict[str, Tensor], list[TensorError]]:
    """(what a file holds, what is lost of each tensor). Raises ConfigError for another `to`.

    Raises NonFiniteError for NaN and infinity, and for numbers that float16 cannot reach.
    """
    if to not in get_args(Quantisation):
        raise ConfigError(f"dtype is {to!r:.80}", f"it is one of {[*get_args(Quantisation), None]}")
    stored: dict[str, Tensor] = {}
    lost = []
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.ndim == 0:
            stored[name] = tensor
            continue
        kept = _as_int8(name, tensor) if _in_rows(tensor, to) else {name: tensor.to(torch.float16)}
        if not all(bool(each.isfinite().all()) for each in (tensor, *kept.values())):
            raise NonFiniteError(
                f"the tensor {name} holds NaN, infinity, or numbers that float16 cannot reach",
                "save it as it is: dtype=None",
            )
        stored |= kept
        lost.append(_lost(name, tensor, kept))
    return stored, lost


def restored(
    stored: Mapping[str, Tensor], lost: Sequence[TensorError], *, path: object, hint: str
) -> dict[str, Tensor]:
    """What `quantised` was given, in float32. Raises FileFormatError where the two do not belong together."""
    left = dict(stored)
    for each in lost:
        found = {name: left.pop(name) for name in (each.name, each.name + SCALE) if name in left}
        if not _is_whole(each, found):
            raise FileFormatError(f"{path} holds no {each.stored} tensor {each.name!r}, as its header says", hint)
        left[each.name] = _dequantised(each.name, found)
    return left


def n_stored_bytes(tensor: Tensor, to: Quantisation | None) -> int:
    """The bytes that `quantised` makes of a tensor; with None those that it has."""
    if to is None or not tensor.is_floating_point() or tensor.ndim == 0:
        return tensor.nbytes
    return tensor.numel() + 2 * len(tensor) if _in_rows(tensor, to) else 2 * tensor.numel()


def _in_rows(tensor: Tensor, to: Quantisation) -> bool:
    return to == "int8" and tensor.ndim > 1


def _as_int8(name: str, tensor: Tensor) -> dict[str, Tensor]:
    rows = tensor.detach().to(torch.float64).flatten(1)
    most = rows.abs().amax(1) if rows.shape[1] else rows.new_zeros(len(rows))
    scale = (most / _LARGEST).to(torch.float16)
    # rounded up: the next number of a positive float16 is the next whole number in its bits
    short = scale.to(torch.float64) * _LARGEST < most
    scale = torch.where(short, (scale.view(torch.int16) + 1).view(torch.float16), scale)
    steps = scale.to(torch.float64).clamp(min=torch.finfo(torch.float16).tiny * 2.0**-10)  # a row of zeros has scale 0
    whole = (rows / steps[:, None]).round().clamp(-_LARGEST, _LARGEST)
    return {name: whole.nan_to_num().to(torch.int8).reshape(tensor.shape), name + SCALE: scale}


def _dequantised(name: str, kept: Mapping[str, Tensor]) -> Tensor:
    values, scale = kept[name].to(torch.float32), kept.get(name + SCALE)
    return values if scale is None else values * scale.to(torch.float32).reshape(-1, *[1] * (values.ndim - 1))


def _is_whole(said: TensorError, found: Mapping[str, Tensor]) -> bool:
    """The tensors are those that the header tells of."""
    tensor, scale = found.get(said.name), found.get(said.name + SCALE)
    if tensor is None or str(tensor.dtype) != f"torch.{said.stored}":
        return False
    if said.stored == "float16":
        return scale is None
    return tensor.ndim > 1 and scale is not None and scale.dtype == torch.float16 and scale.shape == tensor.shape[:1]


def _lost(name: str, tensor: Tensor, kept: Mapping[str, Tensor]) -> TensorError:
    """Largest error, and the norm of the error as a share of the tensor's norm (0 where nothing is lost)."""
    before = tensor.detach().to(torch.float64)
    error = _dequantised(name, kept).to(torch.float64) - before
    norm, size = float(error.norm()), float(before.norm())
    return TensorError(
        name=name,
        dtype=str(tensor.dtype).removeprefix("torch."),
        stored=str(kept[name].dtype).removeprefix("torch."),
        max_error=_shortly(float(error.abs().max()) if error.numel() else 0.0),
        relative_error=_shortly(norm / size if size else 0.0),
    )


def _shortly(value: float) -> float:
    """Three digits: every one takes room in the header."""
    return float(f"{value:.3g}")
