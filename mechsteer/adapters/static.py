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
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.runtime.context import Context


class Static(Adapter):
    """c · v. `vector` is a tensor [d_model] (at z, q, k, v sites [head d_head] or flat), or a Direction.

    Raises ShapeError for a vector that does not fit the site, NonFiniteError for NaN or infinity.
    """

    linear_in_coeff = True
    identity_at_init = True
    default_lr = 1e-2

    def __init__(self, vector: Any) -> None:
        super().__init__()
        vector = getattr(vector, "vector", vector)
        if not isinstance(vector, Tensor) or vector.ndim not in (1, 2) or not vector.is_floating_point():
            what = (
                f"shape {tuple(vector.shape)}, {vector.dtype}" if isinstance(vector, Tensor) else type(vector).__name__
            )
            raise ShapeError(
                f"a static adapter needs a float vector [d_model], got {what}",
                "pass a Direction or a tensor [d_model]",
            )
        if not bool(torch.isfinite(vector).all()):
            raise NonFiniteError("the vector holds NaN or infinity", "look at the activations it was computed from")
        self.vector = nn.Parameter(vector.detach().clone())

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
