"""One loaded model behind the common protocol: its names, what runs it, its weights.

Nothing outside this package knows which class it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mechsteer.models.names import Names
from mechsteer.models.runner import BlockRunner, Runner
from mechsteer.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Something that runs a model: the model itself, or its twin."""

    kind: str  # "bridge", "bridge-compatibility", "hooked", "twin"
    model: Any
    names: Names
    runner: Runner

    @property
    def cfg(self) -> Any:
        return self.model.cfg

    @property
    def device(self) -> torch.device:
        """Where tokens come in and logits go out."""
        return torch.device(self.cfg.device)

    @property
    def is_split(self) -> bool:
        """The model lies on several devices."""
        return getattr(self.cfg, "n_devices", 1) > 1

    def device_at(self, layer: float) -> torch.device:
        """Where a block computes: a model that is split over several devices has several."""
        if not self.is_split:
            return self.device
        return next(self.model.blocks[int(layer)].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.cfg.dtype


@dataclass(frozen=True, kw_only=True)
class Backend(Engine):
    """The model itself."""

    runner: BlockRunner
    weights: Weights
