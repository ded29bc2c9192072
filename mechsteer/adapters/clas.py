"""CLAS, contextual linear activation steering: delta = c · (h·w + b) · v, a fixed direction at a strength of each token.

v is frozen; w [d_read] and b are trained, d_read + 1 numbers. Identity at w = 0 and b = 0, where a new one starts.
Hsu et al. 2026 (arXiv 2604.24693), whose v comes from contrastive data: `mechsteer.directions.extract`.
The equation is as we understand the paper; whether theirs scales h or v beforehand has not been verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mechsteer.adapters.base import Adapter
from mechsteer.adapters.vectors import as_vector
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.runtime.context import Context


class Clas(Adapter):
    """`vector`: v [d_write], a Direction, tensor or array; `d_read`: width of the site it reads (default: v's).

    The reading "strength" is h·w + b at each token. Raises ShapeError for what is no vector or does not fit the site,
    NonFiniteError for NaN, infinity or the zero vector.
    """

    linear_in_coeff = True
    identity_at_init = True

    vector: Tensor

    def __init__(self, vector: Any, d_read: int | None = None) -> None:
        super().__init__()
        self.register_buffer("vector", as_vector(vector, "clas").flatten())
        if not bool(self.vector.any()):
            raise NonFiniteError("the direction is zero", "find another: this one steers nowhere at any strength")
        self.weight = nn.Parameter(torch.zeros(d_read or len(self.vector)))
        self.bias = nn.Parameter(torch.zeros(1))

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        if acts.shape[-1] != len(self.weight):
            raise ShapeError(
                f"clas reads {len(self.weight)} numbers, the activation at the site has {acts.shape[-1]}",
                "say the width of the site it reads: d_read=...",
            )
        wide = torch.promote_types(self.weight.dtype, acts.dtype)
        strength = acts.to(wide) @ self.weight.to(wide) + self.bias.to(wide)
        if ctx.is_recorded:
            ctx.note("strength", strength)
        return (coeff * strength[..., None] * self.vector.to(wide)).to(acts.dtype), None

    def config(self) -> dict[str, Any]:
        return {"d_write": len(self.vector), "d_read": len(self.weight)}

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Clas:
        return cls(torch.ones(config["d_write"]), config["d_read"])

    @classmethod
    def fresh(cls, d_read: int | tuple[int, ...], d_write: int, **options: Any) -> Clas:  # noqa: ARG003
        raise ConfigError(
            "clas trains the strength of a direction that is known, and was given none",
            "find one (mechsteer.directions.extract), save Clas(direction) as a steering (mechsteer.save_steering) and "
            "give the file: adapter.path=FILE",
        )
