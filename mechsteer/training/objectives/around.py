"""An objective around another one: the same data, positions and forwards, with terms of its own beside the other's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from mechsteer.models.sites import Site
from mechsteer.runtime.batches import Batch
from mechsteer.shapes import Mask
from mechsteer.steering.interventions import Intervention
from mechsteer.training.config import FitConfig
from mechsteer.training.objectives.base import Objective, Rows, Split
from mechsteer.training.parts import Part


@dataclass(frozen=True, eq=False)
class Around(Objective):
    """Base of those. A subclass gives `weights`, `identity` and `terms`, each with what `objective` has in it."""

    objective: Objective

    def rows(self, model: Any) -> Rows:
        return self.objective.rows(model)

    def prepared(self, model: Any, config: FitConfig) -> Self:
        return replace(self, objective=self.objective.prepared(model, config))

    def renewed(
        self, model: Any, interventions: Sequence[Intervention], config: FitConfig, *, split: Split, epoch: int
    ) -> Self:
        renewed = self.objective.renewed(model, interventions, config, split=split, epoch=epoch)
        return self if renewed is self.objective else replace(self, objective=renewed)

    def samples_of(self, part: Part) -> Tensor:
        return self.objective.samples_of(part)

    def scored(self, batch: Batch, interventions: Sequence[Intervention]) -> Mask:
        return self.objective.scored(batch, interventions)

    def reads(self, model: Any) -> tuple[Site, ...]:
        return self.objective.reads(model)
