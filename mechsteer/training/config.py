"""How a steering is trained, whatever the objective."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mechsteer.errors import ConfigError

ScheduleName = Literal["constant", "linear", "cosine", "one_cycle"]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of `fit`. What is minimised, and its weights, are the objective's.

    `lr`: AdamW's, at its highest; None takes each adapter's own `default_lr`. `schedule`: its course over all
    steps of all epochs, with a rise over the first `warmup` of them (None: no rise; 0.3 for one_cycle).

    `activation_rms`: the size of an activation per coordinate where the steering writes. The learning rate of parameters
    that are activations themselves (`Adapter.activation_parameters`: a vector, the atoms of a dictionary) is a share of it.

    `group_lengths`: rows of like length share a batch, so that less is padded. Faster where lengths differ much, but
    another training: a batch's loss is a mean over its tokens, so those of short rows weigh more.

    `restart` starts each step from what no step changes (see `mechsteer.runtime.restart`), kept between steps in
    at most `cache_bytes` and recomputed beyond. `recompute_blocks`: blocks above keep no activations for the
    backward pass: less memory, more time.

    Raises ConfigError for values out of range.
    """

    lr: float | None = None
    epochs: int = 5
    batch_size: int = 16
    patience: int = 2  # epochs without a better dev loss before training stops
    seed: int = 0
    activation_rms: float = 1.0
    schedule: ScheduleName = "constant"
    warmup: float | None = None  # a share of all steps
    group_lengths: bool = False
    restart: bool = True
    recompute_blocks: bool = False
    cache_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", "pass at least 1")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr >= 0):
            raise ConfigError(f"lr is {self.lr}", "pass a finite number, 0 or more, or None")
        if not (math.isfinite(self.activation_rms) and self.activation_rms > 0):
            raise ConfigError(f"activation_rms is {self.activation_rms}", "pass a size above 0")
        if self.schedule not in get_args(ScheduleName):
            raise ConfigError(f"schedule is {self.schedule!r}", f"choose one of {list(get_args(ScheduleName))}")
        if self.warmup is not None and not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is {self.warmup}", "pass a share of all steps, from 0 to below 1")
        if self.cache_bytes < 0:
            raise ConfigError(f"cache_bytes is {self.cache_bytes}", "pass 0 or more")
