"""One shard of an activation store on disk: a safetensors file written in place, read by memory map.

The lengths of a shard's prompts are known before the model runs, so the file is laid out first and each
batch is written where it belongs: nothing accumulates in memory, whatever the size of a shard. It is written
under another name and renamed when complete and synced, so a file with a shard's name is a whole shard.

A shard holds `tokens` and `lengths` (int32), `mask` (bool) and per site, named like resid_post@3, the
activations [n_tokens ...] of all real tokens, prompt after prompt.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mechsteer.errors import FileFormatError, StorageError
from mechsteer.files import PARTIAL, rename

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_CODES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.bool: "BOOL",
}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the system says about `path` into StorageError."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            "free some space and run the same capture again: finished shards are kept"
            if is_full
            else "give a folder that can be written",
        ) from error


class ShardWriter:
    """Writes one shard. `commit` gives it its name; until then, or after `abort`, there is no shard."""

    # Not through atomic_path: the file is laid out first and stays open from call to call.

    def __init__(self, path: Path, tokens: np.ndarray, lengths: np.ndarray, mask: np.ndarray, dtype: torch.dtype):
        self.path, self.dtype = path, dtype
        self._fixed = {"tokens": tokens.astype("<i4"), "lengths": lengths.astype("<i4"), "mask": mask}
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        self._partial = path.with_name(path.name + PARTIAL)
        self._file: int | None = None
        self._starts: dict[str, int] = {}

    def write(self, values: Mapping[str, Tensor], rows: list[int], lengths: list[int]) -> None:
        """`values` per site name [n_tokens ...]: the real tokens of the shard's `rows`, one row after the other."""
        with storage_errors(self.path):
            if self._file is None:
                self._lay_out({name: value.shape[1:] for name, value in values.items()})
            for name, value in values.items():
                data = value.contiguous().view(torch.uint8).numpy().reshape(-1).data
                n_bytes = len(data) // len(value)
                start = 0
                for row, length in zip(rows, lengths, strict=True):
                    self._put(
                        data[start : start + length * n_bytes],
                        self._starts[name] + int(self._offsets[row]) * n_bytes,
                    )
                    start += length * n_bytes

    def _lay_out(self, shapes: Mapping[str, torch.Size]) -> None:
        n_tokens, entries, end = len(self._fixed["tokens"]), {}, 0
        parts = [(n, torch.int32, [len(self._fixed[n])]) for n in ("tokens", "lengths")]
        parts += [(name, self.dtype, [n_tokens, *shape]) for name, shape in shapes.items()]
        parts.append(("mask", torch.bool, [n_tokens]))  # last: it alone is not aligned to its neighbours
        for name, dtype, shape in parts:
            begin, end = end, end + int(np.prod(shape)) * dtype.itemsize
            entries[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [begin, end]}
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % 8)
        self._starts = {name: 8 + len(header) + entry["data_offsets"][0] for name, entry in entries.items()}
        self._file = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        size = 8 + len(header) + end
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file, 0, size)  # a full disk shows now, not after an hour of forwards
        else:
            os.truncate(self._file, size)
        self._put(memoryview(len(header).to_bytes(8, "little") + header), 0)
        for name, array in self._fixed.items():
            self._put(memoryview(array.tobytes()), self._starts[name])

    def _put(self, data: memoryview, at: int) -> None:
        assert self._file is not None
        while data:
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written

    def commit(self) -> None:
        """Sync and rename."""
        assert self._file is not None
        with storage_errors(self.path):
            os.fsync(self._file)
            os.close(self._file)
            self._file = None
            rename(self._partial, self.path)

    def abort(self) -> None:
        """Leave nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._partial.unlink(missing_ok=True)


@contextlib.contextmanager
def read_shard(path: Path) -> Iterator[Any]:
    """The memory-mapped shard; raises FileFormatError if it is missing, truncated or corrupt."""
    try:
        with safe_open(path, framework="pt") as shard:
            yield shard
    except (FileNotFoundError, SafetensorError) as error:
        raise FileFormatError(
            f"the shard {path} cannot be read: {error}", "delete the store and capture again"
        ) from error
