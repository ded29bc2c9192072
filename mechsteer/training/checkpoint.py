"""One safetensors file per training run: tensors, and everything else as JSON in its header.

Tensors and state are in one file so that a single rename replaces both: a kill leaves the old or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mechsteer.errors import FileFormatError
from mechsteer.files import write_atomically


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replace the file at `path` at once. Raises StorageError if the disk refuses."""
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_atomically(path, save(plain, metadata={"state": json.dumps(state)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, state), or None where there is no file. Raises FileFormatError if it is not a checkpoint."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise FileFormatError(
            f"{path} is not a readable training checkpoint: {error}", "delete it to start afresh"
        ) from error
