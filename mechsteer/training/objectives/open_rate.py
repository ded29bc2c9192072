"""Hold a gate to a rate: any objective + w · (mean gate − rate)² of each batch.

Nothing in a loss makes a gate close by itself: where a change does no harm, an open gate costs nothing. The mean is over
the tokens that the intervention touches (in neutral text all), so on the training text it is pulled to the rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.training.objectives.around import Around
from mechsteer.training.objectives.base import Terms
from mechsteer.training.parts import Steered

GATE = "gate"  # the reading of an adapter that has one


@dataclass(frozen=True, eq=False)
class OpenRate(Around):
    """`objective` with a penalty on the gates of adapters that note one (the reading "gate", 0 … 1 per token).

    Two terms beside its own: "open_rate", the squared distance of the mean gate from `rate`, of weight `weight`, and
    "gate", that mean itself, of weight 0. Raises ConfigError for a rate outside 0 … 1 and a weight below 0, and in `fit`
    where no adapter of the steering notes a gate.
    """

    _: KW_ONLY
    rate: float = 0.15
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_rate(self.rate)
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ConfigError(f"weight is {self.weight}", "pass a finite number, 0 or more")

    @property
    def weights(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {**self.objective.weights, "open_rate": self.weight, GATE: 0.0}

    def identity(self) -> dict[str, Any]:
        return {**self.objective.identity(), "weights": dict(self.weights), "rate": self.rate}

    def terms(self, steered: Steered) -> Terms:
        gates = torch.cat([values[~values.isnan()] for values in gates_of(steered)])
        told = dict(self.objective.terms(steered))
        if len(gates):
            told["open_rate"] = (len(gates) * (gates.mean() - self.rate).square(), len(gates))
            told[GATE] = (gates.detach().sum(), len(gates))
        return told


def gates_of(steered: Steered) -> list[Tensor]:
    """The gate [batch pos] of each intervention that notes one, NaN where its scope does not touch, with gradients.

    Raises ConfigError where none does.
    """
    noted = [readings[GATE][-1] for readings in steered.session.readings if GATE in readings]
    found = [values for values in noted if values is not None]
    if not found:
        raise ConfigError(
            "no adapter of the steering notes a gate", 'train one that does, such as adapter.kind=gru (reading "gate")'
        )
    return found


def check_rate(rate: float) -> None:
    """Raise ConfigError unless a rate lies between 0 and 1."""
    if not 0 < rate < 1:
        raise ConfigError(f"rate is {rate}", "pass a share between 0 and 1")
