"""Choices on dev problems: by halving, the same procedure on the same problems for everything that is chosen."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mechsteer.evaluation import Arm, Scoring, Tried, Verified, halve
from mechsteer.steering.interventions import Interventions
from mechsteer.steering.shared_prompts import leave_prompts_alone, sharing_prompts
from mechsteer.studies.desk import Desk
from mechsteer.studies.problems import Problems


class Dev:
    """The dev problems of a study, on which everything is chosen."""

    def __init__(self, desk: Desk, problems: Problems, *, batch_size: int | None = None) -> None:
        task = problems.task("dev", desk.settings.traces.n_dev)
        self.desk, self.items = desk, task.items
        self.scoring = sized(problems.scoring(task), batch_size)

    def halve(
        self, name: str, steerings: Sequence[Interventions], labels: Sequence[str], *, whole: bool = False
    ) -> tuple[int, list[Tried]]:
        """(number of the best, what each scored); what was asked is kept under `name` and their labels."""

        def ask(i: int, start: int, end: int) -> np.ndarray:
            arm = Arm(name=f"{name}, {labels[i]}, {start}-{end}", steering=steerings[i])
            return self.scoring.score(self.desk.model, arm, self.items[start:end], keep=self.desk.piece).scores

        shared = all(leave_prompts_alone(steering) for steering in steerings)
        with sharing_prompts() if shared else contextlib.nullcontext():
            return halve(len(steerings), len(self.items), ask, whole=whole)

    def score(self, steering: Interventions, name: str) -> float:
        """Mean score on all of them."""
        return float(self.scores(steering, name).mean())

    def scores(self, steering: Interventions, name: str) -> np.ndarray:
        """Score on each of them [n_items]."""
        arm = Arm(name=name, steering=steering)
        return self.scoring.score(self.desk.model, arm, self.items, keep=self.desk.piece).scores


def sized(scoring: Scoring, batch_size: int | None) -> Scoring:
    """The scoring with so many rows at once, where it writes texts."""
    return replace(scoring, batch_size=batch_size) if isinstance(scoring, Verified) and batch_size else scoring
