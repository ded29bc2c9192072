"""The state of an SAETrainer between two steps, as one safetensors file.

sae_lens' own checkpoints hold a pickle (`trainer_state.pt`); this one holds the same state as named tensors with
the rest as JSON in the header. It is whole or absent, and refused when it is damaged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechsteer.files.tensors import read_tensors, write_tensors

KIND = "SAE checkpoint"
Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]


def save_checkpoint(path: Path, trainer: Any, extra: dict[str, Any]) -> None:
    """Writes trainer and `extra` (anything JSON can hold). Raises StorageError when the disk refuses."""
    tensors = {f"sae.{name}": value for name, value in trainer.sae.state_dict().items()}
    optimizer = trainer.optimizer.state_dict()
    for index, moments in optimizer["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in moments.items()}
    tensors["n_forward_passes_since_fired"] = trainer.n_forward_passes_since_fired
    plain = {
        "param_groups": optimizer["param_groups"],
        "lr_scheduler": trainer.lr_scheduler.state_dict(),
        "coefficients": {name: s.state_dict() for name, s in trainer.coefficient_schedulers.items()},
        "n_training_steps": trainer.n_training_steps,
        "n_training_samples": trainer.n_training_samples,
        "extra": extra,
    }
    write_tensors(path, tensors, plain, kind=KIND, one_writer=True)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """(tensors, plain) with `extra` under plain["extra"]; None where there is no file.

    Raises FileFormatError for a damaged file.
    """
    return read_tensors(path, kind=KIND, hint="train_sae(..., resume=False) trains from the start")


def restore_checkpoint(checkpoint: Checkpoint, trainer: Any) -> None:
    """Puts a freshly built trainer of the same configuration where the saved one was."""
    tensors, plain = checkpoint
    trainer.sae.load_state_dict(_under(tensors, "sae."))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _under(tensors, "adam.").items():
        index, _, moment = name.partition(".")
        state.setdefault(int(index), {})[moment] = value
    trainer.optimizer.load_state_dict({"state": state, "param_groups": plain["param_groups"]})
    trainer.lr_scheduler.load_state_dict(plain["lr_scheduler"])
    for name, value in plain["coefficients"].items():
        trainer.coefficient_schedulers[name].load_state_dict(value)
    trainer.n_forward_passes_since_fired = tensors["n_forward_passes_since_fired"].to(trainer.cfg.device)
    trainer.n_training_steps = plain["n_training_steps"]
    trainer.n_training_samples = plain["n_training_samples"]


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
