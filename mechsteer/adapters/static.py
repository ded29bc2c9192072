"""Static vector: delta = c · v, the same at every touched position.

Identity at v = 0 or c = 0; a blank one starts at v = 0. With v trained at several layers this is the
bias-only baseline (arXiv 2505.18706): see `mechsteer.steering.bias_only`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mechsteer.adapters.base import Adapter
from mechsteer.adapters.vectors import as_vector
from mechsteer.errors import ConfigError, ShapeError
from mechsteer.runtime.context import Context


class Static(Adapter):
    """c · v. `vector` is a Direction, or a tensor or array [d_model] (at z, q, k, v sites [head d_head] or flat).

    Raises ShapeError for a vector that does not fit the site, NonFiniteError for NaN or infinity.
    """

    linear_in_coeff = True
    identity_at_init = True
    default_lr = 1e-2

    def __init__(self, vector: Any) -> None:
        super().__init__()
        self.vector = nn.Parameter(as_vector(vector))

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        vector, width = self.vector.flatten(), acts.shape[-1]
        if len(vector) != width:
            raise ShapeError(
                f"the vector has shape {tuple(self.vector.shape)}, the activation at the site {(width,)}",
                "was it extracted at another site or from another model?",
            )
        return (coeff * vector).to(acts.dtype).expand_as(acts), None

    def as_bias(self, coeff: float) -> Tensor:
        return coeff * self.vector.flatten()

    def config(self) -> dict[str, Any]:
        return {"shape": list(self.vector.shape)}

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Static:
        return cls(torch.zeros(*config["shape"]))

    @classmethod
    def fresh(cls, d_read: int | tuple[int, ...], d_write: int, **options: Any) -> Static:  # noqa: ARG003
        if options:
            raise ConfigError(f"a static adapter has no options {sorted(options)}", "it is one vector")
        return cls(torch.zeros(d_write))
