"""Pull the topology of the steered trajectory: any objective + w · mean (ĥ(h + delta) − target)². Off unless asked for.

ĥ is a frozen `TopologyPredictor`. Topology is no aim in itself: with this term a controller may change the shape of its
trajectory and nothing else, so hold what it does against the same training without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from mechsteer.errors import ConfigError
from mechsteer.runtime.restart import Start, start_from
from mechsteer.training.objectives.around import Around
from mechsteer.training.objectives.base import Terms
from mechsteer.training.parts import Steered
from mechsteer.training.topology_predictor import TopologyPredictor


@dataclass(frozen=True, eq=False)
class TopologyPenalty(Around):
    """`objective` with the term "topology": (predicted H0 entropy − `target_nats`)² over touched tokens with a full window.

    The trajectory is what the intervention reads, with its delta added: of a steering with one intervention that reads and
    writes at resid_post. Raises ConfigError for another, and for a weight or a target that is no number of at least 0.
    """

    predictor: TopologyPredictor
    _: KW_ONLY
    target_nats: float
    weight: float = 0.1

    def __post_init__(self) -> None:
        for name in ("target_nats", "weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} is {getattr(self, name)}", "pass a finite number, 0 or more")

    @property
    def weights(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {**self.objective.weights, "topology": self.weight}

    def identity(self) -> dict[str, Any]:
        digest = sum(float(p.double().square().sum()) for p in self.predictor.parameters())
        more = {"target_nats": self.target_nats, "predictor": [self.predictor.window, digest]}
        return {**self.objective.identity(), "weights": dict(self.weights), **more}

    def terms(self, steered: Steered) -> Terms:
        told = dict(self.objective.terms(steered))
        acts = steered.kept("trajectory", lambda: trajectory(steered))
        delta, here = added(steered, acts.shape[1])
        entropy = self.predictor(acts.float() + delta.float(), steered.part.batch.mask)
        seen = ~entropy.isnan() & here
        if bool(seen.any()):
            told["topology"] = ((entropy[seen] - self.target_nats).square().sum(), int(seen.sum()))
        return told


def trajectory(steered: Steered) -> Tensor:
    """The residual stream [batch pos d_model] that a steering's only intervention reads, which no step changes."""
    model, interventions = steered.session.backend.model, steered.part.interventions
    sites = {site for iv in interventions for site in (*iv.at(model).reads, iv.at(model).site)}
    if len(interventions) != 1 or len(sites) != 1 or {site.point for site in sites} != {"resid_post"}:
        raise ConfigError(
            f"the topology of {len(interventions)} interventions at {sorted(map(str, sites))} is not one trajectory",
            "train one intervention that reads and writes at resid_post, or leave the penalty out",
        )
    (site,) = sites
    start: Start = start_from(model, steered.part.batch, int(site.layer) + 1)
    assert start.resid is not None
    return start.resid


def added(steered: Steered, n: int) -> tuple[Tensor, Tensor]:
    """(delta [batch n d_model], touched [batch n]): 0 and False in a kept prefix, which no step runs again."""
    assert steered.session.recorded is not None
    delta, ctx = steered.session.recorded[0][-1], steered.session.contexts[-1]
    touched = steered.part.interventions[0].scope.touched(ctx)
    here = touched if isinstance(touched, Tensor) else ctx.mask & touched
    n_prefix = n - delta.shape[1]
    return pad(delta, (0, 0, n_prefix, 0)), pad(here, (n_prefix, 0))
