"""What a signal is: one number per token, from the activations of the row up to it, and nothing that comes later.

State goes in and comes out, and nothing of a run is kept on a signal, so rows in several pieces have the values of rows
in one. Padding has no value (0) and changes none. No gradient flows through a signal.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import ConfigError, ShapeError
from mechsteer.shapes import Mask, Resid
from mechsteer.signals.rows import Packed, packed


class Signal(abc.ABC):
    """Base of all signals over a window of the last `window` tokens. Raises ConfigError for one that is too short."""

    name: ClassVar[str]
    least: ClassVar[int] = 2  # tokens of the shortest window that says anything

    def __init__(self, window: int) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or window < self.least:
            raise ConfigError(
                f"the window of {self.name} is {window!r}", f"give a whole number of at least {self.least}"
            )
        self.window = window

    def __repr__(self) -> str:
        return f"{type(self).__name__}(window={self.window})"

    @torch.no_grad()
    def __call__(
        self, acts: Resid, mask: Mask | None = None, state: Any = None
    ) -> tuple[Float[Tensor, "batch pos"], Any]:
        """(values, new state) of activations of any float dtype, in float32 at least, on their device.

        `mask`: real tokens (None: all); `state` None begins the rows. NaN in an activation is NaN in the windows that
        hold it. Raises ShapeError for anything but [batch pos d_model].
        """
        rows = packed(wide(acts), mask)
        values, state = self.of_packed(rows, state)
        return rows.unpacked(values), state

    @abc.abstractmethod
    def of_packed(self, rows: Packed, state: Any) -> tuple[Float[Tensor, "batch pos"], Any]:
        """The same of rows whose padding is behind their tokens; what stands at padding does not matter."""


def wide(acts: Tensor) -> Tensor:
    """Activations as signals are computed: float32 at least, before anything is subtracted. Raises ShapeError."""
    if acts.ndim != 3 or not acts.is_floating_point():
        raise ShapeError(
            f"the activations are {list(acts.shape)}, {acts.dtype}; floats [batch pos d_model] are needed",
            "for one row pass acts[None]",
        )
    return acts.detach().to(torch.promote_types(acts.dtype, torch.float32))
