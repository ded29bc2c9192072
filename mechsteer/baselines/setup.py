"""What every method is made from: one model, the same pairs, the same maps and layers, one loss, one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from mechsteer.baselines.next_token import NextToken
from mechsteer.errors import ConfigError
from mechsteer.prompts import ContrastivePairs
from mechsteer.steering.singular import loss_layer
from mechsteer.training.config import FitConfig
from mechsteer.training.objectives import Objective, Separation

Loss = Literal["contrastive", "next_token"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """Raises ConfigError for an unknown loss, no layers, and layers that are not below where the loss is measured."""

    model: Any
    pairs: ContrastivePairs
    layers: tuple[int, ...]
    maps: tuple[str, ...]
    rank: int = 24
    loss: Loss = "contrastive"
    config: FitConfig
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise ConfigError(f"loss is {self.loss!r}", f"choose one of {list(get_args(Loss))}")
        last = loss_layer(self.model.cfg.n_layers)
        if not self.layers or max(self.layers) >= last or min(self.layers) < 0:
            raise ConfigError(
                f"layers are {list(self.layers)}, the loss is measured at layer {last}", f"give some of 0 to {last - 1}"
            )
        if self.rank < 1:
            raise ConfigError(f"rank is {self.rank}", "give at least 1")

    @property
    def vector_layer(self) -> int:
        """Where a method adds its one vector: behind the last of the layers."""
        return max(self.layers)

    def objective(self) -> Objective:
        """What is minimised."""
        return Separation(self.pairs) if self.loss == "contrastive" else NextToken(self.pairs)

    def label(self, name: str) -> str:
        """The name of a method that is trained on the loss."""
        return name if self.loss == "contrastive" else f"{name} (next token)"

    def settings(self, lr: float) -> FitConfig:
        """The training settings, with `lr` where none is set."""
        return replace(self.config, lr=lr if self.config.lr is None else self.config.lr, seed=self.seed)
