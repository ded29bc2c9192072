"""A small trainer of methods that run models of their own: AdamW on an objective, run as the method runs.

The objective's terms ask for the model at c = +1, −1 and 0; here those are the method's. Nothing is kept between steps but
what the objective keeps, for every weight may change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from mechsteer.baselines.base import Method
from mechsteer.errors import ModelMismatchError, NonFiniteError
from mechsteer.models import model_fingerprint
from mechsteer.shapes import Mask
from mechsteer.training.config import FitConfig
from mechsteer.training.objectives import Objective, Tally
from mechsteer.training.parts import Forwards, Part, Steered
from mechsteer.training.schedules import scheduler_of


class MethodForwards(Forwards):
    """Forwards of parts by a method: `factor` is its coefficient."""

    def __init__(self, method: Method, base: Any, config: FitConfig) -> None:
        super().__init__(base, (), replace(config, restart=False, recompute_blocks=False))
        self.method = method

    def steered(self, part: Part, factor: float = 1.0) -> Steered:
        with self.method.at(factor) as self.model:
            return super().steered(part)

    def frozen(self, part: Part, where: Mask) -> torch.Tensor:
        with self.method.at(0.0) as self.model:
            return super().frozen(part, where)


def train_method(
    method: Method,
    parameters: Sequence[nn.Parameter],
    base: Any,
    objective: Objective,
    config: FitConfig,
    *,
    progress: bool = False,
) -> list[float]:
    """Train `parameters` in place; returns the mean loss of each epoch. They are frozen when it ends, by error too.

    Raises NonFiniteError, ModelMismatchError where the base model's weights changed with theirs.
    """
    assert config.lr is not None
    fingerprint = model_fingerprint(base)
    objective = objective.prepared(base, config)
    train = objective.parts(base, (), config).train
    forwards = MethodForwards(method, base, config)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0)
    scheduler = scheduler_of(optimizer, config.schedule, config.warmup, config.epochs * len(train))
    orders, losses = torch.Generator().manual_seed(config.seed + 1), []
    try:
        for epoch in range(1, config.epochs + 1):
            order = torch.randperm(len(train), generator=orders).tolist()
            steps = []
            for i in tqdm(order, desc=f"{method.name}, epoch {epoch}", disable=not progress, leave=False):
                loss = _loss(forwards, objective, train[i])
                steps.append(float(loss.detach()))
                if not math.isfinite(steps[-1]):
                    raise NonFiniteError(
                        f"the loss of {method.name} became {steps[-1]}", f"lower lr (it is {config.lr:g})"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                scheduler.step()
            losses.append(sum(steps) / len(steps))
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
    if model_fingerprint(base) != fingerprint:
        raise ModelMismatchError(
            f"the base model's weights changed while {method.name} was trained", "load the model again"
        )
    return losses


def _loss(forwards: MethodForwards, objective: Objective, part: Part) -> torch.Tensor:
    terms = objective.terms(forwards.steered(part))
    loss = Tally.of(terms, objective.weights).loss(objective.weights)
    assert isinstance(loss, torch.Tensor)
    return loss
