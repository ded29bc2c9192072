"""A static vector that was trained to do what a planted one does, in its place.

The model is frozen; where the planted delta makes one of the two outputs more likely, so does the trained one learn
to (cross-entropy). Nobody tells it the directions: that they are found again is the point.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mechsteer.adapters import Static
from mechsteer.errors import ConfigError
from mechsteer.planted.blueprint import NEGATIVE, POSITIVE
from mechsteer.planted.scenes import Scene
from mechsteer.planted.subsets import Subsets
from mechsteer.steering.interventions import Intervention, writing
from mechsteer.training import CrossEntropy, FitConfig, Sample, fit

N_EPOCHS = 20


def train(scene: Scene, seed: int) -> Intervention:
    """The scene's intervention with a trained vector. Raises ConfigError for an adapter that is not static."""
    planted = scene.intervention
    if not isinstance(planted.adapter, Static):
        raise ConfigError(f"{type(planted.adapter).__name__} is not static", "only static vectors are trained here")
    total = Subsets(scene.model, planted, scene.contexts, scene.metric, scene.planted).total
    target = [POSITIVE if total > 0 else NEGATIVE]
    blank = replace(planted, adapter=Static(torch.zeros_like(planted.adapter.vector)))
    samples = [Sample(list(row), target) for row in scene.contexts]
    config = FitConfig(lr=0.05, epochs=N_EPOCHS, batch_size=16, seed=seed)
    result = fit(scene.model, blank, CrossEntropy(samples, kl_weight=0.0, l2_weight=1e-3), config, progress=False)
    assert result.steering is not None
    (found,) = writing(result.steering)
    return found
