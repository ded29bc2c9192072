"""SADI, semantics-adaptive intervention: delta = c · δ · (h ⊙ M), a few elements of the activation made larger.

M is 1 at the K elements where the mean difference of contrastive activations is largest in size, else 0; with `signed`
where it is largest with its sign, as the released code has it. So the activation's own values say which way it goes.
Identity at c = 0 or δ = 0.

Wang et al. 2024 (arXiv 2410.12299), at the last token of the prompt: scope "last_prompt". The strengths in their code,
5 to 80, multiply the element: they are 1 + δ here. They choose the K among the elements of all layers, here it is K at
each site; give several sites a k of their own to choose otherwise.
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


class Sadi(Adapter):
    """`difference`: the mean difference [d_model] (a Direction, tensor or array); `k`: how many elements; `strength`: δ.

    δ is its only parameter. Raises ShapeError for a difference that is no vector or does not fit the site,
    NonFiniteError, ConfigError for k outside 1 ... d_model.
    """

    linear_in_coeff = True
    identity_at_init = False

    mask: Tensor

    def __init__(self, difference: Any, k: int, *, strength: float = 1.0, signed: bool = False) -> None:
        super().__init__()
        flat = as_vector(difference, "sadi").flatten()
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(flat):
            raise ConfigError(f"k is {k!r} of {len(flat)} elements", "choose between 1 and all of them")
        largest = (flat if signed else flat.abs()).topk(k).indices
        self.register_buffer("mask", torch.zeros(len(flat)).index_fill(0, largest.cpu(), 1.0))
        self.strength = nn.Parameter(torch.tensor([float(strength)]))
        self.k, self.signed = k, bool(signed)

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        if acts.shape[-1] != len(self.mask):
            raise ShapeError(
                f"the mask has {len(self.mask)} elements, the activation at the site {acts.shape[-1]}",
                "was the difference taken at another site or from another model?",
            )
        return ((coeff * self.strength * self.mask) * acts).to(acts.dtype), None

    def config(self) -> dict[str, Any]:
        return {"d_model": len(self.mask), "k": self.k, "signed": self.signed}

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Sadi:
        return cls(torch.ones(config["d_model"]), config["k"], signed=config["signed"])

    @classmethod
    def fresh(cls, d_read: int | tuple[int, ...], d_write: int, **options: Any) -> Sadi:  # noqa: ARG003
        raise ConfigError(
            "sadi takes a mean difference that is known: there is nothing to begin its training with",
            "find one (mechsteer.directions.extract), save Sadi(difference, k) as a steering and give the file: "
            "adapter.path=FILE",
        )
