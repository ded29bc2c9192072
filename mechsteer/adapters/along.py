"""What ablation and clamping share: a direction d, and the coordinate x·d̂ along it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mechsteer.adapters.base import Adapter
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.runtime.context import Context


class Along(Adapter):
    """Base of adapters that change the coordinate along one direction and nothing else.

    `vector` is a tensor [d_model] (at z, q, k, v sites [head d_head] or flat), an array, or a Direction; its norm
    does not matter. Raises ShapeError for what is no vector, NonFiniteError for NaN, infinity or the zero vector.
    """

    linear_in_coeff = True
    identity_at_init = False

    def __init__(self, vector: Any) -> None:
        super().__init__()
        vector = getattr(vector, "vector", vector)
        vector = vector if isinstance(vector, Tensor) else torch.as_tensor(vector)
        if vector.ndim not in (1, 2) or not vector.is_floating_point():
            raise ShapeError(
                f"{_an(type(self).__name__)} needs a float vector [d_model], got {vector.dtype} {tuple(vector.shape)}",
                "pass a Direction or a tensor [d_model]",
            )
        if not bool(torch.isfinite(vector).all()) or not bool(vector.any()):
            raise NonFiniteError(
                "the direction is zero, or holds NaN or infinity", "look at the activations it was computed from"
            )
        self.vector = nn.Parameter(vector.detach().clone())

    def coordinate(self, acts: Tensor) -> tuple[Tensor, Tensor]:
        """(x·d̂ [batch pos 1], d̂ [d]), in the more exact dtype of the two."""
        vector = self.vector.flatten()
        if len(vector) != acts.shape[-1]:
            raise ShapeError(
                f"the vector has shape {tuple(self.vector.shape)}, the activation at the site {(acts.shape[-1],)}",
                "was it extracted at another site or from another model?",
            )
        unit = (vector / vector.norm()).to(torch.promote_types(vector.dtype, acts.dtype))
        return (acts.to(unit.dtype) @ unit)[..., None], unit

    def noted(self, along: Tensor, ctx: Context) -> None:
        """The coordinate before the change is the reading "coordinate"."""
        if ctx.is_recorded:
            ctx.note("coordinate", along[..., 0])

    def config(self) -> dict[str, Any]:
        return {"shape": list(self.vector.shape)}

    @classmethod
    def fresh(cls, d_read: int | tuple[int, ...], d_write: int, **options: Any) -> Adapter:  # noqa: ARG003
        name = cls.__name__.lower()
        raise ConfigError(
            f"{name} takes a direction that is known: there is nothing to begin its training with",
            f"find one (mechsteer.directions.extract), save it as a steering (mechsteer.save_steering) of the adapter "
            f"{cls.__name__} and give the file: adapter.path=FILE",
        )


def _an(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"
