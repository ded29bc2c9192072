"""Next-token loss over the chosen side of each pair: the positive text at c = +1, the negative one at c = −1.

loss = −mean over tokens of log p_c(token | before),   half of them of each side
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.training.objectives.base import Objective, Rows, Terms
from mechsteer.training.objectives.pairs import PairsLike, scored_rows
from mechsteer.training.parts import Steered


class OnPairs(Objective):
    """Base of objectives on pairs whose two texts share a batch: even rows are positive, odd ones negative."""

    pairs: PairsLike

    def rows(self, model: Any) -> Rows:
        if not len(self.pairs):
            raise DataError("there are no pairs", "pass at least one pair of texts")
        rows = scored_rows(model, self.pairs)
        return Rows(train=rows, train_groups=[2] * (len(rows) // 2))


@dataclass(frozen=True, eq=False)
class NextToken(OnPairs):
    """Cross-entropy in nats per token of the side that the coefficient stands for. Raises DataError for no pairs."""

    pairs: PairsLike

    @property
    def weights(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {"positive": 0.5, "negative": 0.5}

    def terms(self, steered: Steered) -> Terms:
        is_positive = scored_row_numbers(steered) % 2 == 0
        plus = log_p(steered)[is_positive]
        minus = log_p(steered.again(-1.0))[~is_positive]
        return {"positive": (-plus.sum(), len(plus)), "negative": (-minus.sum(), len(minus))}


def log_p(run: Steered) -> Tensor:
    """[n_scored] log-likelihood of each next token."""
    at = run.part.batch.predicts_target
    return run.log_probs(at).gather(1, run.part.batch.next_tokens[at][:, None])[:, 0]


def scored_row_numbers(run: Steered) -> Tensor:
    """[n_scored] the row of the batch that each of them is in."""
    return run.part.batch.predicts_target.nonzero()[:, 0]


def text_sums(run: Steered, values: Tensor) -> Tensor:
    """[batch] sums over each text of `values` [n_scored]."""
    return values.new_zeros(len(run.part.batch.rows)).index_add(0, scored_row_numbers(run), values)
