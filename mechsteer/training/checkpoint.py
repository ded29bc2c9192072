"""One file per training run: tensors, and everything else as JSON in its header.

Tensors and state are in one file so that a single rename replaces both: a kill leaves the old or the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mechsteer.files.tensors import read_tensors, write_tensors

KIND = "training checkpoint"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replace the file at `path` at once. Raises StorageError if the disk refuses."""
    write_tensors(path, tensors, state, kind=KIND, one_writer=True)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, state) as they were written, keys in order; None where there is no file.

    Raises FileFormatError if it is damaged or no checkpoint.
    """
    hint = "give another checkpoint path: the training then starts afresh"
    return read_tensors(path, kind=KIND, hint=hint)
