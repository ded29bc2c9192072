"""The checkpoint of an SAE's training: a disk that refuses leaves the one before and nothing else."""

import errno
import os
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from mechsteer.errors import StorageError
from mechsteer.features import sae_checkpoint
from mechsteer.files import tensors


def trainer(value: float) -> SimpleNamespace:
    """What `save_checkpoint` reads of an SAETrainer."""
    layer = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.constant_(layer.weight, value)
    return SimpleNamespace(
        sae=layer,
        optimizer=torch.optim.Adam(layer.parameters()),
        n_forward_passes_since_fired=torch.zeros(2),
        lr_scheduler=SimpleNamespace(state_dict=dict),
        coefficient_schedulers={},
        n_training_steps=1,
        n_training_samples=2,
    )


def no_space(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half(tensors: dict, path: os.PathLike, metadata: dict) -> None:
    """As safetensors does where the disk fills up while it writes."""
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"half")
    raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("module", "name", "refusal"),
    [(os, "fsync", no_space), (os, "replace", no_space), (tensors, "save_file", half)],
)
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, module, name, refusal) -> None:
    path = tmp_path / "new" / "checkpoint.safetensors"
    sae_checkpoint.save_checkpoint(path, trainer(1.0), {"at": "first"})
    monkeypatch.setattr(module, name, refusal)
    with pytest.raises(StorageError, match=r"No space left on device[\s\S]*hint: free some space"):
        sae_checkpoint.save_checkpoint(path, trainer(2.0), {"at": "second"})
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    checkpoint = sae_checkpoint.read_checkpoint(path)
    assert checkpoint is not None
    assert checkpoint[1]["extra"] == {"at": "first"}
