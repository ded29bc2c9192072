"""Cross-entropy of single samples under a steering: what two steerings are compared by, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.steering.interventions import Interventions, Steering, flatten, writing
from mechsteer.training.config import FitConfig
from mechsteer.training.objectives import CrossEntropy
from mechsteer.training.objectives.harm import SampleLike
from mechsteer.training.parts import Forwards

_CONFIG = FitConfig()


@torch.no_grad()
def sample_losses(
    model: Any, steering: Interventions, samples: Sequence[SampleLike], *, config: FitConfig = _CONFIG
) -> Float[Tensor, " n_samples"]:
    """Mean cross-entropy in nats per target token of each sample, float64 on the CPU. Raises as `fit` for the samples."""
    interventions = writing(steering if isinstance(steering, Steering) else Steering(flatten(steering)))
    objective = CrossEntropy(samples, kl_weight=0.0, l2_weight=0.0)
    forwards, losses = Forwards(model, interventions, config), torch.zeros(len(samples), dtype=torch.float64)
    for part in objective.parts(model, interventions, config).train:
        steered = forwards.steered(part)
        objective.terms(steered)
        sums, counts = steered.by_row["cross_entropy"]
        losses[part.batch.rows.cpu()] = (sums / counts).double().cpu()
    return losses
