"""What a run trains on from one epoch to the next: the same batches all along, or those of an objective that renews itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mechsteer.errors import ConfigError
from mechsteer.steering.interventions import Intervention
from mechsteer.training.config import FitConfig
from mechsteer.training.objectives import Objective
from mechsteer.training.objectives.base import Split
from mechsteer.training.parts import Forwards, Parts


@dataclass(frozen=True, eq=False, kw_only=True)
class Round:
    """An objective with its batches and their forwards."""

    objective: Objective
    parts: Parts
    forwards: Forwards


class Rounds:
    """The rounds of one run. `first` is made of the objective as it is given."""

    def __init__(
        self, model: Any, interventions: Sequence[Intervention], objective: Objective, config: FitConfig
    ) -> None:
        self.model, self.interventions, self.config = model, interventions, config
        self.first = self._round(objective)

    def of(self, split: Split, epoch: int) -> Round:
        """The round after `epoch` epochs; its batches of the other split are not to be used.

        Raises ConfigError where the number of training batches is not that of the first one.
        """
        now = self.first.objective.renewed(self.model, self.interventions, self.config, split=split, epoch=epoch)
        if now is self.first.objective:
            return self.first
        found, n = self._round(now), len(self.first.parts.train)
        if split == "train" and len(found.parts.train) != n:
            raise ConfigError(
                f"the objective renewed itself from {n} training batches to {len(found.parts.train)}",
                "let `renewed` keep the number of rows: the schedule counts steps",
            )
        return found

    def _round(self, objective: Objective) -> Round:
        # what is kept of batches is kept in their forwards: it goes with the round
        return Round(
            objective=objective,
            parts=objective.parts(self.model, self.interventions, self.config),
            forwards=Forwards(self.model, self.interventions, self.config),
        )
