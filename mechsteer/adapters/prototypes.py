"""Prototype-based dynamic steering (PDS): delta = c · Σ_k w_k(p) μ_k, a vector of each prompt's own.

The prototypes μ_k are the k-means centres of activation differences, chain-of-thought prompt less neutral prompt, at
their last tokens (`mechsteer.directions.cluster_differences`). p is the prompt's activation at the same place, and

    projection  w_k = p·μ_k / ‖μ_k‖²: the sum of p's projections on each prototype, sign included
    cosine      w_k = cos(p, μ_k): of a prototype's length, however long p is

Kayan & Zhang 2025 (arXiv 2510.05498): "an input's hidden state is projected onto these prototypes to form an
instance-specific steering vector", added to the residual stream. The projection is as we understand that sentence; the
paper's own weights, its strength and which tokens it touches have not been verified. `cosine` is ours. Identity at c = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mechsteer.adapters.base import Adapter
from mechsteer.adapters.shuffling import derangement
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.runtime.context import Context
from mechsteer.runtime.summary import Pooling, PromptSummary
from mechsteer.shapes import Directions

Weights = Literal["projection", "cosine"]


class Prototypes(Adapter):
    """`prototypes`: μ [n_prototypes d_model], frozen: nothing of it is trained. `pooling` and `bos`: what p is.

    The reading "weights" [batch pos n_prototypes] are the row's w. `shuffled` gives each weight to another prototype.
    Raises ShapeError, NonFiniteError (NaN, infinity, a prototype of zeros), ConfigError for other weights.
    """

    linear_in_coeff = True
    identity_at_init = False
    per_prompt = True

    prototypes: Tensor
    order: Tensor  # the prototype that each weight goes to

    def __init__(
        self, prototypes: Directions, *, weights: Weights = "projection", pooling: Pooling = "last", bos: bool = True
    ) -> None:
        super().__init__()
        if weights not in get_args(Weights):
            raise ConfigError(f"no weights {weights!r}", f"they are {list(get_args(Weights))}")
        if not isinstance(prototypes, Tensor) or prototypes.ndim != 2 or not prototypes.is_floating_point():
            got = tuple(prototypes.shape) if isinstance(prototypes, Tensor) else type(prototypes).__name__
            raise ShapeError(f"prototypes are {got}", "pass a float tensor [n_prototypes d_model]")
        if not bool(prototypes.isfinite().all()) or not bool(prototypes.any(1).all()):
            raise NonFiniteError("a prototype is zero, or holds NaN or infinity", "look at the differences it is of")
        self.register_buffer("prototypes", prototypes.detach().clone())
        self.register_buffer("order", torch.arange(len(prototypes), device=prototypes.device))
        self.weights: Weights = weights
        self.summary = PromptSummary(pooling, bos)

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        weights = self.weights_of(ctx.summary) if state is None else state
        if ctx.is_recorded:
            ctx.note("weights", weights[:, None].expand(*acts.shape[:2], -1))
        steered = coeff * weights @ self.prototypes[self.order].to(weights.dtype)
        return steered.to(acts.dtype)[:, None].expand(*acts.shape[:2], -1), weights

    def weights_of(self, summary: Tensor | None) -> Tensor:
        """w [batch n_prototypes] of summaries [batch d_model]."""
        assert summary is not None  # the session hands one to whoever asks for it
        if summary.shape[-1] != self.prototypes.shape[1]:
            raise ShapeError(
                f"prototypes have {self.prototypes.shape[1]} numbers, the activation at the site {summary.shape[-1]}",
                "were they found at another site or of another model?",
            )
        wide = torch.promote_types(self.prototypes.dtype, summary.dtype)
        pooled, rows = summary.to(wide), self.prototypes.to(wide)
        if self.weights == "cosine":
            return torch.cosine_similarity(pooled[:, None], rows, dim=-1)
        return pooled @ rows.T / rows.pow(2).sum(1)

    def shuffled(self, generator: torch.Generator) -> Prototypes | None:
        if len(self.order) < 2:
            return None
        assert self.summary is not None
        options = self.summary.pooling, self.summary.bos
        other = Prototypes(self.prototypes, weights=self.weights, pooling=options[0], bos=options[1])
        other.order = self.order[derangement(len(self.order), generator).to(self.order.device)]
        return other

    def config(self) -> dict[str, Any]:
        assert self.summary is not None
        return {
            "shape": list(self.prototypes.shape),
            "weights": self.weights,
            "pooling": self.summary.pooling,
            "bos": self.summary.bos,
        }

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Prototypes:
        options = {name: value for name, value in config.items() if name != "shape"}
        return cls(torch.ones(*config["shape"]), **options)

    @classmethod
    def fresh(cls, d_read: int | tuple[int, ...], d_write: int, **options: Any) -> Prototypes:  # noqa: ARG003
        raise ConfigError(
            "prototypes are found, not trained",
            "mechsteer.steering.prototype_steering finds them in contrastive pairs; save it and give the file: "
            "adapter.path=FILE",
        )
