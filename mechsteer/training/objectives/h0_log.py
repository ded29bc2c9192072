"""What the shape of the steered trajectory becomes while something else is trained: any objective + a line in its log.

"h0_entropy" is the exact H0 entropy in nats of each sample's first n target tokens at the site that is steered, delta
added, as a mean over the samples that have n. Its weight is 0: it moves nothing. Raw entropy follows the number of
points, so n is one number for all samples and epochs (`mechsteer.topology`); epoch 0 of the history is the model as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import torch

from mechsteer.errors import ConfigError, DataError
from mechsteer.signals.spanning import lifetime_entropy, mst_edges
from mechsteer.training.config import FitConfig
from mechsteer.training.objectives.around import Around
from mechsteer.training.objectives.base import Terms
from mechsteer.training.objectives.topology_penalty import added, trajectory
from mechsteer.training.parts import Steered

H0_ENTROPY = "h0_entropy"  # name of the term
FEWEST = 3  # points whose entropy says anything


@dataclass(frozen=True, eq=False)
class H0Log(Around):
    """`objective` with the term "h0_entropy" of weight 0 beside its own.

    `n_points`: as many target tokens of each sample are looked at, fewer where fewer than three in four samples have them.
    The trajectory is that of `TopologyPenalty`. Raises ConfigError for fewer than 3 points and, in `fit`, for another
    steering than one intervention that reads and writes at resid_post; DataError where samples are shorter than that.
    """

    _: KW_ONLY
    n_points: int = 32

    def __post_init__(self) -> None:
        if isinstance(self.n_points, bool) or not isinstance(self.n_points, int) or self.n_points < FEWEST:
            raise ConfigError(f"n_points is {self.n_points!r}", f"pass a whole number of at least {FEWEST}")

    @property
    def weights(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {**self.objective.weights, H0_ENTROPY: 0.0}

    def prepared(self, model: Any, config: FitConfig) -> H0Log:
        objective = self.objective.prepared(model, config)
        rows = objective.rows(model)
        most = min(shared_length([len(target) for _, target in some]) for some in (rows.train, rows.dev) if some)
        if most < FEWEST:
            raise DataError(
                f"one in four samples has {most} target tokens or fewer, which have no shape",
                "train on longer texts, or leave H0Log out",
            )
        return replace(self, objective=objective, n_points=min(self.n_points, most))

    def identity(self) -> dict[str, Any]:
        return {**self.objective.identity(), "weights": dict(self.weights), "h0_points": self.n_points}

    def terms(self, steered: Steered) -> Terms:
        told = dict(self.objective.terms(steered))
        is_target = steered.part.batch.is_target
        long = is_target.sum(1) >= self.n_points
        if bool(long.any()):
            with torch.no_grad():
                acts = steered.kept("trajectory", lambda: trajectory(steered)).float()
                acts = acts + added(steered, acts.shape[1])[0].float()
                first = is_target & (is_target.cumsum(1) <= self.n_points) & long[:, None]
                entropies, _ = lifetime_entropy(mst_edges(acts[first].unflatten(0, (-1, self.n_points))))
            values = torch.from_numpy(entropies).to(acts.device, torch.float32)
            told[H0_ENTROPY] = steered.term(H0_ENTROPY, values, long.nonzero()[:, 0])
        return told


def shared_length(lengths: Sequence[int]) -> int:
    """Points that three in four trajectories of these `lengths` have; 0 without any.

    >>> shared_length([3, 9, 5, 8, 7])
    5
    """
    return int(np.quantile(lengths, 0.25)) if lengths else 0
