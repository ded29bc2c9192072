"""The state of an SAETrainer between two steps, as one safetensors file.

sae_lens' own checkpoints hold a pickle (`trainer_state.pt`); this one holds the same state as named tensors with
the rest as JSON in the header. It is whole or absent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mechsteer.errors import FileFormatError, StorageError
from mechsteer.files import atomic_path


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
    try:
        with atomic_path(path, one_writer=True) as part:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
                part,
                {"state": json.dumps(plain)},
            )
    except SafetensorError as error:  # what safetensors makes of a disk that refuses
        raise StorageError(f"cannot write {path}: {error}", "free some space, or choose another folder") from error


def read_extra(path: Path) -> dict[str, Any]:
    """The `extra` of a checkpoint, without its tensors. Raises FileFormatError for a damaged file."""
    return _read(path)[0]["extra"]


def restore_checkpoint(path: Path, trainer: Any) -> None:
    """Puts a freshly built trainer of the same configuration where the saved one was."""
    plain, tensors = _read(path)
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


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["state"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise FileFormatError(
            f"the checkpoint {path} is damaged: {error}", "delete it to train from the start"
        ) from error


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
