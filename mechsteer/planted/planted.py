"""A planted mechanism: a model and an intervention of which it is known what carries the effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mechsteer.attribution.metrics import Metric
from mechsteer.bases import Basis
from mechsteer.results import Result
from mechsteer.steering.interventions import Intervention

SAME = 0.9  # a direction of the dictionary with at least this |cosine| to a planted one counts as that one


@dataclass(frozen=True, kw_only=True)
class Truth(Result):
    """What the parts of a delta do, by running the model with subsets of them; no gradient takes part.

    Means over contexts, in units of the metric. Of the planted parts: `alone` = metric with this part alone − base,
    `removed` = metric with all − metric without this one, `shapley` = Shapley value, exact over the planted parts and
    everything else as one more player, whose own value is `others`: Σ shapley + others = total.
    """

    total: float
    alone: Float[Tensor, " n_planted"]
    removed: Float[Tensor, " n_planted"]
    shapley: Float[Tensor, " n_planted"]
    others: float
    decoys_alone: Float[Tensor, " n_decoys"]
    decoys_removed: Float[Tensor, " n_decoys"]

    @property
    def shares(self) -> Tensor:
        """shapley / total."""
        return self.shapley / self.total


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """One case: attribute the effect of `intervention` on `metric` over `contexts` to `basis`, and compare.

    `planted`, `decoys`, `illusions` are rows of `basis`, which is shuffled: planted ones carry the effect, decoys are
    in the delta and carry none, illusions have a share only because the rest of the delta takes it back. `learned`:
    which part of the planted directions a trained adapter took up (1 where nothing was trained).
    """

    family: str
    dictionary: str
    trained: bool
    seed: int
    model: Any
    intervention: Intervention
    contexts: Sequence[Sequence[int]]
    metric: Metric
    basis: Basis
    planted: tuple[int, ...]
    decoys: tuple[int, ...]
    illusions: tuple[int, ...]
    truth: Truth
    is_null: bool
    learned: float = 1.0

    @property
    def name(self) -> str:
        """Family, dictionary and seed, for tables and errors."""
        return f"{self.family}/{self.dictionary}{'/trained' if self.trained else ''}/{self.seed}"
