"""CAST, conditional activation steering: delta = c · 1[score ⋛ θ] · v, the same at every touched token of a row.

The score is taken once per row, at the prefill, over the prompt's summary p at the site that is read:

    projected   cos(p, tanh(u uᵀp / uᵀu)), the paper's, with u the condition vector
    cosine      cos(p, u)

Lee et al. 2024 (arXiv 2409.05907). Their comparator "larger" means that the threshold is larger: it is `score_below`
here. Of their code the summary (mean over all prompt tokens, or the last) and the score are taken; the rescaling of
activations that grew ("OOI preventive normalization"), and rules over several conditions, are not. To look at one layer
and act on another, let the intervention read there: `Intervention(Cast(...), 15, read=7)`. Identity at c = 0 and in
rows whose condition is not met; no training starts from it, so it has no other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mechsteer.adapters.base import Adapter
from mechsteer.adapters.vectors import as_vector
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.runtime.context import Context
from mechsteer.runtime.summary import Pooling, PromptSummary

Score = Literal["projected", "cosine"]
Rule = Literal["score_above", "score_below"]


class Cast(Adapter):
    """`vector` v [d_write] in rows whose prompt has the condition `condition` u [d_read]; threshold θ in [-1, 1].

    `pooling` and `bos` say what p is (see `PromptSummary`). The reading "score" is the row's score at each token.
    Vectors are Directions, tensors or arrays. Raises ShapeError, NonFiniteError (NaN, infinity, u = 0), ConfigError.
    """

    linear_in_coeff = True
    identity_at_init = False
    per_prompt = True

    condition: Tensor

    def __init__(
        self,
        vector: Any,
        condition: Any,
        threshold: float,
        *,
        rule: Rule = "score_above",
        score: Score = "projected",
        pooling: Pooling = "mean",
        bos: bool = True,
    ) -> None:
        super().__init__()
        if rule not in get_args(Rule) or score not in get_args(Score):
            raise ConfigError(
                f"rule is {rule!r}, score {score!r}", f"rules are {get_args(Rule)}, scores {get_args(Score)}"
            )
        if not math.isfinite(threshold):
            raise NonFiniteError(f"the threshold is {threshold}", "give a cosine, between -1 and 1")
        self.vector = nn.Parameter(as_vector(vector, "cast").flatten())
        self.register_buffer("condition", as_vector(condition, "the condition of cast").flatten())
        if not bool(self.condition.any()):
            raise NonFiniteError("the condition is the zero vector", "find another: it has no cosine with anything")
        self.threshold, self.rule, self.score = float(threshold), rule, score
        self.summary = PromptSummary(pooling, bos)

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        scores = self.scores(ctx.summary) if state is None else state
        if ctx.is_recorded:
            ctx.note("score", scores[:, None].expand(acts.shape[:2]))
        met = scores > self.threshold if self.rule == "score_above" else scores < self.threshold
        steered = coeff * met.to(self.vector.dtype)[:, None] * self.vector
        return steered.to(acts.dtype)[:, None].expand(*acts.shape[:2], -1), scores

    def scores(self, summary: Tensor | None) -> Tensor:
        """[batch] of summaries [batch d_read]."""
        assert summary is not None  # the session hands one to whoever asks for it
        if summary.shape[-1] != len(self.condition):
            raise ShapeError(
                f"the condition has {len(self.condition)} numbers, the activation at the site {summary.shape[-1]}",
                "was it extracted at another site or from another model?",
            )
        wide = torch.promote_types(self.condition.dtype, summary.dtype)
        pooled, target = summary.to(wide), self.condition.to(wide)
        if self.score == "projected":
            target = torch.tanh((pooled @ target / target.dot(target))[:, None] * target)
        return torch.cosine_similarity(pooled, target.expand_as(pooled), dim=-1)

    def config(self) -> dict[str, Any]:
        assert self.summary is not None
        return {
            "d_write": len(self.vector),
            "d_read": len(self.condition),
            "threshold": self.threshold,
            "rule": self.rule,
            "score": self.score,
            "pooling": self.summary.pooling,
            "bos": self.summary.bos,
        }

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Cast:
        options = {name: value for name, value in config.items() if name not in ("d_write", "d_read")}
        return cls(torch.ones(config["d_write"]), torch.ones(config["d_read"]), **options)

    @classmethod
    def fresh(cls, d_read: int | tuple[int, ...], d_write: int, **options: Any) -> Cast:  # noqa: ARG003
        raise ConfigError(
            "cast takes a vector, a condition and a threshold that are known: there is nothing to begin its training with",
            "find both (mechsteer.directions.extract), save Cast(vector, condition, threshold) as a steering and give "
            "the file: adapter.path=FILE",
        )
