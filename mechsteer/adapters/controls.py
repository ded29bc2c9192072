"""Controls of an adapter of any kind, made of the adapter itself.

magnitude only: delta = ‖Δ_t‖ · r̂, with Δ_t what the adapter adds at token t and r̂ a fixed direction. When and how
strongly is the adapter's, whither is not: if this scores as well, the adapter's directions do nothing. Identity where
the adapter is. (A random vector of equal norm keeps neither; a shuffled router, see `Adapter.shuffled`, keeps the
directions and not which of them is chosen.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mechsteer.adapters.base import Adapter
from mechsteer.adapters.registry import name_of, named
from mechsteer.adapters.vectors import as_vector
from mechsteer.adapters.wrapping import Wrapper
from mechsteer.errors import ConfigError, NonFiniteError
from mechsteer.runtime.context import Context


class MagnitudeOnly(Wrapper):
    """`adapter` runs as ever; what is added lies along `direction` [d_write], as long at each token as its delta.

    A negative coefficient does not turn it. Raises NonFiniteError for a direction that is zero, ShapeError.
    """

    direction: Tensor

    def __init__(self, adapter: Adapter, direction: Any) -> None:
        super().__init__(adapter)
        vector = as_vector(direction, "a magnitude-only control").flatten()
        if not bool(vector.any()):
            raise NonFiniteError("the direction is zero", "draw one: mechsteer.directions.random_direction")
        self.register_buffer("direction", vector / vector.norm())

    def delta(self, acts: Any, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        delta, state = self.adapter.delta(acts, state, coeff, ctx)
        wide = torch.promote_types(delta.dtype, self.direction.dtype)
        size = delta.to(wide).norm(dim=-1, keepdim=True)
        return (size * self.direction.to(wide)).to(delta.dtype), state

    def config(self) -> dict[str, Any]:
        name = name_of(type(self.adapter))
        if name is None:
            raise ConfigError(
                f"the control is of a {type(self.adapter).__name__}, which is not registered",
                f'mechsteer.adapters.register("{type(self.adapter).__name__.lower()}", ...)',
            )
        return {"name": name, "config": self.adapter.config(), "d_write": len(self.direction)}

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> MagnitudeOnly:
        return cls(named(config["name"]).blank(config["config"]), torch.ones(config["d_write"]))
