"""`fit`: train a steering's adapters on a frozen model, from cached residuals.

    loss = cross-entropy(targets) + λ·KL(frozen || steered) + μ·mean‖delta‖²        AdamW, early stop on dev

Everything random comes from `seed`; a run that was killed and is started again from its checkpoint gives the
same bytes as one that was not.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mechsteer.adapters import Static
from mechsteer.errors import ConfigError, ModelMismatchError, NonFiniteError
from mechsteer.models import model_fingerprint
from mechsteer.runtime.batches import Sample
from mechsteer.steering.interventions import Interventions, Steering, flatten
from mechsteer.training.checkpoint import read_checkpoint, write_checkpoint
from mechsteer.training.losses import Tally
from mechsteer.training.objective import Objective

STATIC_LR, LR = 1e-2, 1e-3  # a vector starts at zero and must reach the residual's size; an MLP need not

_NOTHING = Tally(0.0, 0, 0.0, 0, 0.0, 0)


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a steering was trained."""

    lr: float
    epochs: int = 5
    batch_size: int = 16
    kl_weight: float = 0.1
    l2_weight: float = 1e-4
    patience: int = 2  # epochs without a better dev loss before training stops
    seed: int = 0
    restart: bool = True
    recompute_blocks: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", "pass at least 1")
        for name in ("lr", "kl_weight", "l2_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} is {getattr(self, name)}", "pass a finite number, 0 or more")


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A trained copy of the steering and how it came to be."""

    steering: Steering
    history: tuple[dict[str, Any], ...]  # per epoch: {epoch, train, dev}, both {loss, cross_entropy, kl, square_norm}
    best_epoch: int  # whose parameters `steering` has: best on dev (0: untrained was best), or the last without dev
    fingerprint: str  # of the model, the same before and after
    data_hash: str  # of samples, dev and neutral texts, encoded
    config: FitConfig
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form, without the tensors."""
        named = ("best_epoch", "fingerprint", "data_hash", "seconds")
        return {"history": list(self.history), "config": asdict(self.config)} | {k: getattr(self, k) for k in named}


def fit(
    model: Any,
    steering: Interventions,
    samples: Sequence[Sample],
    *,
    dev: Sequence[Sample] | None = None,
    neutral: Sequence[str | Sequence[int]] = (),
    epochs: int = 5,
    lr: float | None = None,
    batch_size: int = 16,
    kl_weight: float = 0.1,
    l2_weight: float = 1e-4,
    patience: int = 2,
    seed: int = 0,
    restart: bool = True,
    recompute_blocks: bool = False,
    checkpoint: str | Path | None = None,
    cache_bytes: int = 2 << 30,
    progress: bool = True,
) -> FitResult:
    """Train a copy of `steering` so that `model` continues each sample's prompt with its target.

    `samples`, `dev`: lists of `Sample(prompt, target)`, disjoint. `neutral`: texts on which the steered model
    (scope `all`) is to stay as it is; one batch of them joins every step. `lr`: AdamW's, without weight decay;
    default 1e-2 where all adapters are static, else 1e-3. With `dev` training stops after `patience` epochs
    without a better dev loss and the best epoch's parameters are returned. `checkpoint`: a file written after
    every epoch; called again with it, the run goes on where it was.

    `restart` starts each step from what no step changes (see `mechsteer.runtime.restart`), kept between steps
    in at most `cache_bytes` and recomputed beyond. `recompute_blocks`: blocks above keep no activations for the
    backward pass: less memory, more time.

    The given steering and the model stay as they are and no hooks remain, also after an exception.

    Raises ConfigError (nothing to train, a model that is not frozen, a checkpoint of another run), DataError
    (empty or too long samples), NonFiniteError (the loss is NaN or infinite), ModelMismatchError (the model's
    weights changed meanwhile).
    """
    trained = copy.deepcopy(steering if isinstance(steering, Steering) else Steering(flatten(steering)))
    static = all(isinstance(iv.adapter, Static) for iv in trained.interventions)
    config = FitConfig(
        lr=(STATIC_LR if static else LR) if lr is None else lr,
        epochs=epochs,
        batch_size=batch_size,
        kl_weight=kl_weight,
        l2_weight=l2_weight,
        patience=patience,
        seed=seed,
        restart=restart,
        recompute_blocks=recompute_blocks,
    )
    _refuse_untrainable(model, trained)
    fingerprint = model_fingerprint(model)
    objective = Objective(
        model,
        trained.flat(),
        samples,
        dev or (),
        neutral,
        batch_size=batch_size,
        seed=seed,
        restart=restart,
        recompute_blocks=recompute_blocks,
        cache_bytes=cache_bytes,
    )
    run = _Run(trained, config, {"fingerprint": fingerprint, "data": objective.hash})
    if checkpoint is not None:
        run.resume(Path(checkpoint))
    orders = torch.Generator().manual_seed(seed + 1)
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(objective.train), generator=orders).tolist()
        if epoch <= run.epoch:
            continue
        if run.is_done:
            break
        began = time.perf_counter()
        if epoch == 1 and objective.dev:
            run.close_epoch(None, _evaluate(objective, config, dev=True))
        train = _NOTHING
        for step, i in enumerate(tqdm(order, desc=f"epoch {epoch}", unit="step", disable=not progress, leave=False)):
            tally = objective(objective.train[i])
            if objective.neutral:
                tally += objective(objective.neutral[((epoch - 1) * len(order) + step) % len(objective.neutral)])
            run.step(tally.loss(kl_weight, l2_weight), f"epoch {epoch}, step {step + 1}")
            train += tally.detached()
        run.close_epoch(_summary(train, config), _evaluate(objective, config, dev=bool(objective.dev)))
        run.seconds += time.perf_counter() - began
        if checkpoint is not None:
            run.save(Path(checkpoint))
    if model_fingerprint(model) != fingerprint:
        raise ModelMismatchError("the model's weights changed while the adapter trained", "train on a model at rest")
    run.load(run.best)
    return FitResult(
        steering=trained,
        history=tuple(run.history),
        best_epoch=run.best_epoch,
        fingerprint=fingerprint,
        data_hash=objective.hash,
        config=config,
        seconds=run.seconds,
    )


def _refuse_untrainable(model: Any, steering: Steering) -> None:
    if any(p.requires_grad for p in model.parameters()):
        raise ConfigError(
            "the model is not frozen: its parameters require gradients",
            "call model.requires_grad_(False), or load it with mechsteer.load_model",
        )
    if not any(p.requires_grad for p in steering.parameters()):
        raise ConfigError(
            "the steering has no trainable parameters", "pass adapters whose parameters require gradients"
        )
    if any(iv.coeff == 0 for iv in steering.flat()):
        raise ConfigError("an intervention with coefficient 0 cannot be trained", "train at coeff=1.0 and scale later")


def _summary(tally: Tally, config: FitConfig) -> dict[str, float]:
    means = {name: float(value) for name, value in tally.means().items()}
    return {"loss": float(tally.loss(config.kl_weight, config.l2_weight))} | means


def _evaluate(objective: Objective, config: FitConfig, *, dev: bool) -> dict[str, float] | None:
    if not dev:
        return None
    with torch.no_grad():
        tallies = [objective(part).detached() for part in (*objective.dev, *objective.neutral)]
    return _summary(sum(tallies, _NOTHING), config)


class _Run:
    """What changes while training, and its checkpoint."""

    def __init__(self, steering: Steering, config: FitConfig, identity: dict[str, str]) -> None:
        unique = {id(iv.adapter): iv.adapter for iv in steering.interventions}
        self.adapters = nn.ModuleList(unique.values())
        self.parameters = [p for p in self.adapters.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=0.0)
        self.config, self.identity = config, {**identity, "config": asdict(config)}
        self.history: list[dict[str, Any]] = []
        self.best, self.best_epoch, self.best_loss, self.seconds = self._state(), 0, math.inf, 0.0

    @property
    def epoch(self) -> int:
        return self.history[-1]["epoch"] if self.history else 0

    @property
    def is_done(self) -> bool:
        return self.epoch - self.best_epoch >= self.config.patience

    def _state(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.adapters.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.adapters.load_state_dict(state)

    def step(self, loss: Tensor | float, where: str) -> None:
        assert isinstance(loss, Tensor)
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(
                f"the loss became {loss.item()} in {where}",
                f"lower lr (it is {self.config.lr:g}) or the coefficient, or load the model in float32",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def close_epoch(self, train: dict[str, float] | None, dev: dict[str, float] | None) -> None:
        """Record an epoch (the state before the first where `train` is None) and keep the best parameters."""
        epoch = 0 if train is None else self.epoch + 1
        self.history.append({"epoch": epoch, "train": train, "dev": dev})
        if dev is None or dev["loss"] < self.best_loss:
            self.best, self.best_epoch = self._state(), epoch
            self.best_loss = math.inf if dev is None else dev["loss"]

    def save(self, path: Path) -> None:
        tensors = {f"current.{k}": t for k, t in self._state().items()} | {f"best.{k}": t for k, t in self.best.items()}
        for i, p in enumerate(self.parameters):
            tensors |= {f"optimizer.{i}.{k}": t for k, t in self.optimizer.state[p].items()}
        named = ("history", "best_epoch", "best_loss", "seconds")
        write_checkpoint(path, tensors, {"identity": self.identity} | {k: getattr(self, k) for k in named})

    def resume(self, path: Path) -> None:
        found = read_checkpoint(path)
        if found is None:
            return
        tensors, state = found
        if state.get("identity") != self.identity:
            theirs = state.get("identity") or {}
            changed = [k for k, v in self.identity.items() if theirs.get(k) != v]
            raise ConfigError(
                f"the checkpoint {path} belongs to another run: {', '.join(changed)} differ",
                "use another checkpoint path, or delete it to start afresh",
            )

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

        self.load(under("current."))
        self.best = under("best.")
        for i, p in enumerate(self.parameters):
            found_state = under(f"optimizer.{i}.")
            self.optimizer.state[p] = {k: t if k == "step" else t.to(p) for k, t in found_state.items()}
        for name in ("history", "best_epoch", "best_loss", "seconds"):
            setattr(self, name, state[name])
