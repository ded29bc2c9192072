"""The course of the learning rate over all steps of a training run."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from mechsteer.errors import ConfigError
from mechsteer.training.config import ScheduleName

_PEAK = 0.3  # where a one-cycle schedule is highest, unless said otherwise
_FEWEST = 4  # steps: a cycle needs two up and two down


def scheduler_of(optimizer: Optimizer, schedule: ScheduleName, warmup: float | None, n_steps: int) -> LRScheduler:
    """The schedule of `n_steps` steps; every group's present rate is its highest.

    Raises ConfigError for a one-cycle schedule of fewer than four steps.
    """
    if schedule == "one_cycle":
        if n_steps < _FEWEST:
            raise ConfigError(
                f"a one-cycle schedule over {n_steps} steps", f"train at least {_FEWEST} steps, or choose another one"
            )
        peak = min(max(_PEAK if warmup is None else warmup, 2 / n_steps), 1 - 2 / n_steps)
        highest = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, highest, total_steps=n_steps, pct_start=peak, cycle_momentum=False)
    n_rising = min(round((warmup or 0.0) * n_steps), n_steps - 1)
    course = _falling(optimizer, schedule, n_steps - n_rising)
    if n_rising == 0:
        return course
    rise = LinearLR(optimizer, start_factor=1 / (n_rising + 1), total_iters=n_rising)
    return SequentialLR(optimizer, [rise, course], milestones=[n_rising])


def _falling(optimizer: Optimizer, schedule: ScheduleName, n_steps: int) -> LRScheduler:
    if schedule == "linear":
        return LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=n_steps)
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=n_steps)
    return ConstantLR(optimizer, factor=1.0, total_iters=0)
