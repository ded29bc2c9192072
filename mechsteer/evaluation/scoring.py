"""Scoring: what an arm makes of items, and how good that is. One protocol; the implementations are

Verified         texts written on problems, right or wrong (`mechsteer.evaluation.verified`)
LogOdds          ln P(one continuation) − ln P(another) (`mechsteer.evaluation.likelihoods`)
MultipleChoice   the likelier of an item's options, right or wrong (`mechsteer.evaluation.likelihoods`)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from mechsteer.evaluation.arms import Arm, MeanScore
from mechsteer.results import Result
from mechsteer.steering.interventions import Interventions
from mechsteer.tasks import Item, Trace

Keep = Callable[[str, Callable[[], Any]], Any]
"""keep(name, compute): plain data kept under this name by an earlier run, or what `compute` gives, kept now.

Arms run side by side in processes of their own (`mechsteer.runtime.threads`): what is kept must lie on the disk."""


def at_once(_name: str, compute: Callable[[], Any]) -> Any:
    """The `Keep` that keeps nothing."""
    return compute()


@dataclass(frozen=True, kw_only=True)
class Scored(Result):
    """What one arm made of the items. With several decoding seeds the items come once per seed, in order."""

    scores: np.ndarray
    """[n_scores]: bool where an answer is right or wrong, else float64"""
    groups: tuple[str, ...]
    """per score the problem it is about: what intervals resample"""
    traces: tuple[Trace, ...] = ()
    """per score the text written; empty where nothing is"""
    tokens: tuple[tuple[int, ...], ...] = ()
    """per score its new tokens, without the stop token"""
    stopped: tuple[bool, ...] = ()
    """per score whether the text ended by itself"""
    log_likelihoods: tuple[tuple[float, ...], ...] = ()
    """per score the log-likelihood of each continuation or option, where these are scored"""
    seeds: tuple[int, ...] = ()
    """decoding seeds; empty: greedy, or nothing written"""
    strict: np.ndarray | None = None
    """[n_scores] right or wrong by the strict form of an answer alone; None where the task has none"""

    @property
    def score(self) -> float:
        """The mean."""
        return float(self.scores.mean())

    @property
    def strictly(self) -> Scored | None:
        """The same, scored by the strict form; None where the task has none."""
        return None if self.strict is None else replace(self, scores=self.strict)

    def without_texts(self) -> Scored:
        """The scores alone: small enough to keep in a file of results."""
        return replace(self, traces=(), tokens=(), stopped=(), log_likelihoods=())


class Scoring(Protocol):
    """How items are put to a model and how what it makes of them is scored. Frozen: one serves all arms."""

    @property
    def metric(self) -> str:
        """A short name: "accuracy", "log_odds", "multiple_choice"."""
        ...

    @property
    def unit(self) -> str:
        """What a score is a number of, for tables."""
        ...

    def prompt(self, model: Any, item: Item) -> list[int]:
        """Token ids that the model is given for an item, without an arm's prefix."""
        ...

    def score(
        self, model: Any, arm: Arm, items: Sequence[Item], *, keep: Keep = at_once, progress: bool = False
    ) -> Scored:
        """Every item once (or once per decoding seed) under the arm. What takes long is handed to `keep`."""
        ...


def mean_score(model: Any, scoring: Scoring, items: Sequence[Item], *, keep: Keep = at_once) -> MeanScore:
    """A function of a steering and a name: its mean score on `items` (dev), kept under the name."""

    def score(steering: Interventions, name: str) -> float:
        return scoring.score(model, Arm(name=name, steering=steering), items, keep=keep).score

    return score
