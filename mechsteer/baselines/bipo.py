"""BiPO: one vector v, trained to make the positive text preferred at +v and the negative one at −v.

    loss = −½ Σ_{d = ±1} log σ(d β [log p_d(pos) / p_0(pos) − log p_d(neg) / p_0(neg)])

log p_d is of a whole text under h + d v, p_0 of the unsteered model. The paper draws d in each step; here both are taken.
Identity at v = 0, where it begins. Bi-directional preference optimisation (Cao et al., arXiv 2406.00045, equation 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch

from mechsteer.adapters import Static
from mechsteer.baselines.base import Method, Steered
from mechsteer.baselines.next_token import OnPairs, log_p, text_sums
from mechsteer.baselines.setup import Setup
from mechsteer.errors import ConfigError
from mechsteer.steering.interventions import Intervention
from mechsteer.training import parts
from mechsteer.training.fit import fit
from mechsteer.training.objectives.base import Terms
from mechsteer.training.objectives.pairs import PairsLike


@dataclass(frozen=True, eq=False)
class BiPO(OnPairs):
    """The loss above, in nats per pair. Raises ConfigError for a beta that is not above 0, DataError for no pairs."""

    pairs: PairsLike
    _: KW_ONLY
    beta: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError(f"beta is {self.beta}", "give a number above 0")

    @property
    def weights(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {"preference": 1.0}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "beta": self.beta}

    def terms(self, steered: parts.Steered) -> Terms:
        base = steered.kept("base log p", lambda: _base(steered))
        losses = []
        for d in (1.0, -1.0):
            run = steered if d > 0 else steered.again(d)
            ratios = text_sums(run, log_p(run) - base)
            losses.append(-torch.nn.functional.logsigmoid(d * self.beta * (ratios[::2] - ratios[1::2])))
        both = torch.cat(losses)
        return {"preference": (both.sum(), len(both))}


@torch.no_grad()
def _base(steered: parts.Steered) -> torch.Tensor:
    return log_p(steered.again(0.0))


def by_preference(setup: Setup) -> Method:
    """A vector behind the last layer. It has a loss of its own, whatever the others are trained on."""
    model = setup.model
    begin = Intervention(Static(torch.zeros(model.cfg.d_model)), setup.vector_layer)
    settings = setup.settings(Static.default_lr)
    fitted = fit(model, begin, BiPO(setup.pairs), settings, progress=setup.progress)
    return Steered("bipo", model, fitted.steering)
