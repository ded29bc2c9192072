"""`fit`: train a steering's adapters on a frozen model, from cached residuals.

AdamW on the loss of an objective (see `mechsteer.training.objectives`), early stop on dev. Everything random comes
from the seed; a run that was killed and is started again from its checkpoint gives the same bytes as one that
was not.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.errors import ConfigError, ModelMismatchError
from mechsteer.models import model_fingerprint
from mechsteer.results import Result, live, plain
from mechsteer.runtime.reach import touched
from mechsteer.steering.interventions import Intervention, Interventions, Steering, flatten, writing
from mechsteer.training.config import FitConfig
from mechsteer.training.loop import Epoch, Loop, Means
from mechsteer.training.objectives import CrossEntropy, Objective, Tally
from mechsteer.training.objectives.harm import SampleLike
from mechsteer.training.parts import Part, Parts
from mechsteer.training.rounds import Round, Rounds
from mechsteer.training.spread import Spread

_DEFAULTS = FitConfig()


@dataclass(frozen=True, kw_only=True)
class FitResult(Result):
    """A trained copy of the steering and how it came to be."""

    steering: Steering = live()  # has a file of its own: None in a result that was read
    history: tuple[Epoch, ...]
    best_epoch: int  # whose parameters `steering` has: best on dev (0: untrained was best), or the last without dev
    fingerprint: str  # of the model, the same before and after
    data_hash: str  # of all rows of the objective, encoded
    objective: dict[str, Any]  # its name, weights and what else tells it from others
    config: FitConfig
    learning_rates: tuple[float, ...]  # the highest of each adapter
    seconds: float


def fit(
    model: Any,
    steering: Interventions,
    objective: Objective | Sequence[SampleLike],
    config: FitConfig = _DEFAULTS,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> FitResult:
    """Train a copy of `steering` towards `objective`; samples alone stand for `CrossEntropy(samples)`.

    Observations are not run meanwhile, nor changed: the trained steering has them where they were.

    With dev data in the objective, training stops after `config.patience` epochs without a better dev loss and the
    best epoch's parameters are returned. `checkpoint`: a file written after every epoch; called again with it, the
    run goes on where it was.

    The given steering and the model stay as they are and no hooks remain, also after an exception.

    Raises ConfigError (nothing to train, a model that is not frozen, a checkpoint of another run), DataError
    (empty or too long samples), NonFiniteError (the loss is NaN or infinite), ModelMismatchError (the model's
    weights changed meanwhile).
    """
    if not isinstance(config, FitConfig):
        raise ConfigError(f"config is {config!r:.80}", "pass mechsteer.training.FitConfig(epochs=..., lr=..., ...)")
    if not isinstance(objective, Objective):
        objective = CrossEntropy(objective)
    trained = copy.deepcopy(steering if isinstance(steering, Steering) else Steering(flatten(steering)))
    interventions = writing(trained)
    _refuse_untrainable(model, interventions)
    fingerprint = model_fingerprint(model)
    objective = objective.prepared(model, config)
    rounds = Rounds(model, interventions, objective, config)
    parts = rounds.first.parts
    if not parts.train:
        raise ConfigError("the objective has no training data", "give its rows something to train on")
    identity = {"fingerprint": fingerprint, "data": parts.data_hash, "objective": plain(objective.identity())}
    identity["steering"] = _described(model, interventions)
    loop = Loop([iv.adapter for iv in interventions], config, identity, steps_per_epoch=len(parts.train))
    if checkpoint is not None:
        loop.resume(Path(checkpoint))
    orders = torch.Generator().manual_seed(config.seed + 1)
    for epoch in range(1, config.epochs + 1):
        order = torch.randperm(len(parts.train), generator=orders).tolist()
        if epoch <= loop.epoch:
            continue
        if loop.is_done:
            break
        began = time.perf_counter()
        if epoch == 1 and parts.dev:
            loop.close_epoch(None, _evaluate(rounds.of("dev", 0)))
        now = rounds.of("train", epoch - 1)
        _refuse_idle(interventions, now.parts)
        train = _train(now, loop, order, epoch, progress=progress)
        loop.close_epoch(train, _evaluate(rounds.of("dev", epoch)) if parts.dev else None)
        loop.seconds += time.perf_counter() - began
        if checkpoint is not None:
            loop.save(Path(checkpoint))
    if model_fingerprint(model) != fingerprint:
        raise ModelMismatchError("the model's weights changed while the adapter trained", "train on a model at rest")
    loop.load(loop.best)
    return FitResult(
        steering=trained,
        history=tuple(loop.history),
        best_epoch=loop.best_epoch,
        fingerprint=fingerprint,
        data_hash=parts.data_hash,
        objective=identity["objective"],
        config=config,
        learning_rates=loop.lrs,
        seconds=loop.seconds,
    )


def _train(now: Round, loop: Loop, order: Sequence[int], epoch: int, *, progress: bool) -> Means:
    """One epoch of steps; means of the loss terms while it went on."""
    parts, weights = now.parts, now.objective.weights
    total, spread = Tally({}, {}), Spread()
    for step, i in enumerate(tqdm(order, desc=f"epoch {epoch}", unit="step", disable=not progress, leave=False)):
        tally = _tallied(now, parts.train[i], spread)
        if parts.neutral:
            beside = parts.neutral[((epoch - 1) * len(order) + step) % len(parts.neutral)]
            tally += _tallied(now, beside, spread, neutral=True)
        loop.step(tally.loss(weights), f"epoch {epoch}, step {step + 1}")
        total += tally.detached()
    return Means(means=total.summary(weights), errors=spread.errors(weights))


@torch.no_grad()
def _evaluate(now: Round) -> Means:
    total, spread = Tally({}, {}), Spread()
    for part in now.parts.dev:
        total += _tallied(now, part, spread).detached()
    for part in now.parts.neutral:
        total += _tallied(now, part, spread, neutral=True).detached()
    return Means(means=total.summary(now.objective.weights), errors=spread.errors(now.objective.weights))


def _tallied(now: Round, part: Part, spread: Spread, *, neutral: bool = False) -> Tally:
    """The terms of a part under the steering as it stands; `spread` takes note of them."""
    steered = now.forwards.steered(part)
    terms = now.objective.terms(steered)
    spread.add(terms, steered, now.objective.samples_of(part), neutral=neutral)
    return Tally.of(terms, now.objective.weights)


def _refuse_idle(interventions: Sequence[Intervention], parts: Parts) -> None:
    for iv in interventions:
        if not any(bool(touched([iv], part.batch.context()).any()) for part in (*parts.train, *parts.neutral)):
            raise ConfigError(
                f"the intervention at {iv.site} touches no token of the training rows: {iv.scope!r}",
                "choose a scope within them; its adapter would stay as it is",
            )


def _described(model: Any, interventions: Sequence[Intervention]) -> list[Any]:
    """What is trained: adapters, their values at the start, where they sit, what they touch."""
    return [
        [
            type(iv.adapter).__name__,
            plain(iv.adapter.config()),
            str(iv.site),
            str(iv.read),
            plain(iv.scope.to_dict()),
            iv.coeff,
            _digest(iv.adapter.state_dict()),
        ]
        for iv in (iv.at(model) for iv in interventions)
    ]


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode() + raw.numpy().tobytes())
    return digest.hexdigest()[:16]


def _refuse_untrainable(model: Any, interventions: Sequence[Intervention]) -> None:
    if any(p.requires_grad for p in model.parameters()):
        raise ConfigError(
            "the model is not frozen: its parameters require gradients",
            "call model.requires_grad_(False), or load it with mechsteer.load_model",
        )
    if not any(p.requires_grad for iv in interventions for p in iv.adapter.parameters()):
        raise ConfigError(
            "the steering has no trainable parameters", "pass adapters whose parameters require gradients"
        )
    if any(iv.coeff == 0 for iv in interventions):
        raise ConfigError("an intervention with coefficient 0 cannot be trained", "train at coeff=1.0 and scale later")
