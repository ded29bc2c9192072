"""What changes while training: parameters, optimizer, schedule, history; and its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from mechsteer.adapters import Adapter
from mechsteer.errors import ConfigError, NonFiniteError
from mechsteer.results import Result
from mechsteer.training.checkpoint import read_checkpoint, write_checkpoint
from mechsteer.training.config import FitConfig
from mechsteer.training.schedules import scheduler_of

_MAY_DIFFER = ("cache_bytes",)  # settings that a resumed run may change: they change no number


@dataclass(frozen=True, kw_only=True)
class Epoch(Result):
    """Means over an epoch: `loss` and every term of the objective by name. Epoch 0 is the state before the first.

    Errors are the standard errors of the same means over samples (`mechsteer.training.spread`).
    """

    epoch: int
    train: dict[str, float] | None  # while training; None for epoch 0
    dev: dict[str, float] | None  # after it, neutral texts included; None without dev data
    train_errors: dict[str, float] | None = None  # None in results of versions that did not keep them
    dev_errors: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Means:
    """Of a pass over data: the means of the loss and its terms, and their standard errors."""

    means: dict[str, float]
    errors: dict[str, float]


class _Group(TypedDict):
    """Parameters that AdamW trains at one rate."""

    params: list[nn.Parameter]
    lr: float


def _rate(adapter: Adapter, config: FitConfig) -> float:
    return adapter.default_lr if config.lr is None else config.lr


def _groups(adapter: Adapter, config: FitConfig, seen: Collection[int]) -> list[_Group]:
    """Its parameters that are trained and not `seen`, those that are activations at a rate of their own."""
    scaled = {id(p) for p in adapter.activation_parameters()}
    parameters = [p for p in adapter.parameters() if p.requires_grad and id(p) not in seen]
    lr = _rate(adapter, config)
    groups: list[_Group] = [
        {"params": [p for p in parameters if id(p) not in scaled], "lr": lr},
        {"params": [p for p in parameters if id(p) in scaled], "lr": lr * config.activation_rms},
    ]
    return [group for group in groups if group["params"]]


class Loop:
    """The run between two steps.

    Raises ConfigError where the steering has nothing to train, or a checkpoint is another run's.
    """

    def __init__(
        self, adapters: Sequence[Adapter], config: FitConfig, identity: Mapping[str, Any], *, steps_per_epoch: int
    ) -> None:
        unique = list({id(adapter): adapter for adapter in adapters}.values())
        self.adapters = nn.ModuleList(unique)
        groups: list[_Group] = []
        highest: list[float] = []
        seen: set[int] = set()
        for adapter in unique:
            own = _groups(adapter, config, seen)
            seen |= {id(p) for group in own for p in group["params"]}
            highest.append(max((group["lr"] for group in own), default=_rate(adapter, config)))
            groups += own
        self.lrs = tuple(highest)
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW([{**group} for group in groups], weight_decay=0.0)
        n_steps = config.epochs * steps_per_epoch
        self.scheduler = scheduler_of(self.optimizer, config.schedule, config.warmup, n_steps)
        settings = {k: v for k, v in asdict(config).items() if k not in _MAY_DIFFER} | {"lr": list(self.lrs)}
        self.patience = config.patience
        self.identity = {**identity, "config": settings}
        self.history: list[Epoch] = []
        self.best, self.best_epoch, self.best_loss, self.seconds = self._state(), 0, math.inf, 0.0

    @property
    def epoch(self) -> int:
        """The last one closed."""
        return self.history[-1].epoch if self.history else 0

    @property
    def is_done(self) -> bool:
        """No epoch within the patience was better."""
        return self.epoch - self.best_epoch >= self.patience

    def _state(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.adapters.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Set every parameter."""
        self.adapters.load_state_dict(state)

    def step(self, loss: Tensor | float, where: str) -> None:
        """One step down. Raises NonFiniteError, ConfigError where the loss does not depend on any parameter."""
        value = loss.item() if isinstance(loss, Tensor) else loss
        if not math.isfinite(value):
            rates = ", ".join(f"{group['lr']:g}" for group in self.optimizer.param_groups)
            raise NonFiniteError(
                f"the loss became {value} in {where}",
                f"lower lr (it is {rates}) or the coefficient, or load the model in float32",
            )
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            raise ConfigError(
                f"the loss of {where} does not depend on the steering's parameters",
                "its scope comes after all positions that are scored, or the objective's terms carry no gradient",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()

    def close_epoch(self, train: Means | None, dev: Means | None) -> None:
        """Record an epoch (the state before the first where `train` is None) and keep the best parameters."""
        epoch = 0 if train is None else self.epoch + 1
        kept: dict[str, Any] = {}
        for split, found in (("train", train), ("dev", dev)):
            kept |= {split: found and found.means, f"{split}_errors": found and found.errors}
        self.history.append(Epoch(epoch=epoch, **kept))
        if dev is None or dev.means["loss"] < self.best_loss:
            self.best, self.best_epoch = self._state(), epoch
            self.best_loss = math.inf if dev is None else dev.means["loss"]

    def save(self, path: Path) -> None:
        """Replace the checkpoint at `path` at once."""
        tensors = {f"current.{k}": t for k, t in self._state().items()} | {f"best.{k}": t for k, t in self.best.items()}
        for i, p in enumerate(self.parameters):
            tensors |= {f"optimizer.{i}.{k}": t for k, t in self.optimizer.state[p].items()}
        state = {
            "identity": self.identity,
            "history": [asdict(epoch) for epoch in self.history],
            "schedule": self.scheduler.state_dict(),
            "rates": [group["lr"] for group in self.optimizer.param_groups],
        }
        named = ("best_epoch", "best_loss", "seconds")
        write_checkpoint(path, tensors, state | {k: getattr(self, k) for k in named})

    def resume(self, path: Path) -> None:
        """Go on from `path`, if there is a checkpoint. Raises ConfigError if it is another run's."""
        checkpoint = read_checkpoint(path)
        if checkpoint is None:
            return
        tensors, state = checkpoint
        if state.get("identity") != self.identity:
            theirs = state.get("identity") or {}
            changed = [k for k, v in self.identity.items() if theirs.get(k) != v]
            raise ConfigError(
                f"the checkpoint {path} belongs to another run: {', '.join(changed)} differ",
                "give another checkpoint path to start afresh",
            )

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

        self.load(under("current."))
        self.best = under("best.")
        for i, p in enumerate(self.parameters):
            moments = under(f"optimizer.{i}.")
            self.optimizer.state[p] = {k: t if k == "step" else t.to(p) for k, t in moments.items()}
        self.scheduler.load_state_dict(state["schedule"])
        for group, rate in zip(self.optimizer.param_groups, state["rates"], strict=True):
            group["lr"] = rate
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        for name in ("best_epoch", "best_loss", "seconds"):
            setattr(self, name, state[name])
