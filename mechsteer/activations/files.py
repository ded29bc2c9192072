"""One shard of an activation store on disk: a safetensors file written in place, read by memory map.

The lengths of a shard's prompts are known before the model runs, so the file is laid out first and each
batch is written where it belongs: nothing accumulates in memory, whatever the size of a shard. It is written
under another name and renamed when complete and synced, so a file with a shard's name is a whole shard.

A shard holds `tokens` and `lengths` (int32), `mask` (bool) and per site, named like resid_post@3, the
activations [n_tokens ...] of all real tokens, prompt after prompt. The file's metadata says which shard of which
capture it is, with a digest of every tensor: each is checked the first time it is read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mechsteer.errors import FileFormatError, StorageError
from mechsteer.files import PARTIAL, rename
from mechsteer.files.tensors import METADATA, begun_digest, tensor_digest

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_CODES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.bool: "BOOL",
}
AGAIN = "run the same capture again: it makes this shard anew"
_CHUNK = 2**20  # bytes


_DTYPES = {code: dtype for dtype, code in _CODES.items()}
# what reading a file of any content can come to
_UNREADABLE = (
    SafetensorError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    RecursionError,
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a shard lies, and which it is."""

    path: Path
    capture: str  # digest of the capture's manifest
    number: int
    n_tokens: int


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

    def __init__(
        self, place: Place, tokens: np.ndarray, lengths: np.ndarray, mask: np.ndarray, dtype: torch.dtype
    ) -> None:
        self.place, self.path, self.dtype = place, (path := place.path), dtype
        self._fixed = {"tokens": tokens.astype("<i4"), "lengths": lengths.astype("<i4"), "mask": mask}
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        self._partial = path.with_name(path.name + PARTIAL)
        self._file: int | None = None
        self._entries: dict[str, dict[str, Any]] = {}
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
        n_tokens, end = len(self._fixed["tokens"]), 0
        parts = [(n, torch.int32, [len(self._fixed[n])]) for n in ("tokens", "lengths")]
        parts += [(name, self.dtype, [n_tokens, *shape]) for name, shape in shapes.items()]
        parts.append(("mask", torch.bool, [n_tokens]))  # last: it alone is not aligned to its neighbours
        for name, dtype, shape in parts:
            begin, end = end, end + int(np.prod(shape)) * dtype.itemsize
            self._entries[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [begin, end]}
        header = self._header(dict.fromkeys(self._entries, "0" * 32))  # the digests come when the tensors are there
        self._starts = {name: 8 + len(header) + entry["data_offsets"][0] for name, entry in self._entries.items()}
        self._file = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        size = 8 + len(header) + end
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file, 0, size)  # a full disk shows now, not after an hour of forwards
        else:
            os.truncate(self._file, size)
        self._put(memoryview(len(header).to_bytes(8, "little") + header), 0)
        for name, array in self._fixed.items():
            self._put(memoryview(array.tobytes()), self._starts[name])

    def _header(self, digests: Mapping[str, str]) -> bytes:
        """Of the same length whatever the digests."""
        text = json.dumps({"capture": self.place.capture, "shard": self.place.number, "digests": digests})
        header = json.dumps({"__metadata__": {METADATA: text}, **self._entries}).encode()
        return header + b" " * (-len(header) % 8)

    def _digests(self) -> dict[str, str]:
        """Of the tensors as they lie in the file, in pieces: none has to fit into memory."""
        assert self._file is not None
        digests = {}
        for name, entry in self._entries.items():
            digest = begun_digest(name, _DTYPES[entry["dtype"]], entry["shape"])
            begin, end = (self._starts[name] + at - entry["data_offsets"][0] for at in entry["data_offsets"])
            for at in range(begin, end, _CHUNK):
                digest.update(os.pread(self._file, min(_CHUNK, end - at), at))
            digests[name] = digest.hexdigest()
        return digests

    def _put(self, data: memoryview, at: int) -> None:
        assert self._file is not None
        while data:
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written

    def commit(self) -> None:
        """Write the digests, sync and rename."""
        assert self._file is not None
        with storage_errors(self.path):
            self._put(memoryview(self._header(self._digests())), 8)
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


class Shard:
    """One memory-mapped shard. `shard[name]` is a view of a tensor; `checked` are the names that need no check."""

    def __init__(self, file: Any, place: Place, digests: Mapping[str, str], checked: set[str]) -> None:
        self._file, self._place, self._digests, self._checked = file, place, digests, checked

    def __getitem__(self, name: str) -> Tensor:
        """Raises FileFormatError for a tensor that is not what was written."""
        try:
            tensor = self._file.get_tensor(name)
            if name not in self._checked:
                if self._digests.get(name) != tensor_digest(name, tensor):
                    raise FileFormatError(f"{name} of the shard {self._place.path} is damaged", AGAIN)
                if name != "lengths" and len(tensor) != self._place.n_tokens:
                    raise FileFormatError(
                        f"{name} of {self._place.path} is not of {self._place.n_tokens} tokens", AGAIN
                    )
                self._checked.add(name)
        except _UNREADABLE as error:
            raise FileFormatError(f"the shard {self._place.path} cannot be read: {error}", AGAIN) from error
        return tensor

    def check(self, names: Iterable[str]) -> None:
        """Raise FileFormatError unless the shard holds just these tensors, all of them as they were written."""
        wanted = {*names, "tokens", "lengths", "mask"}
        if set(self._file.keys()) != wanted:
            raise FileFormatError(f"the shard {self._place.path} does not hold {sorted(wanted)}", AGAIN)
        for name in wanted:
            self[name]


@contextlib.contextmanager
def open_shard(place: Place, checked: set[str]) -> Iterator[Shard]:
    """The shard that lies at a place; raises FileFormatError if it is missing, truncated, or another one.

    `checked`: the names of tensors that are known to be whole; those that are read are added.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(safe_open(place.path, framework="pt"))
            header = json.loads((file.metadata() or {}).get(METADATA, "null"))
        except _UNREADABLE as error:
            raise FileFormatError(f"the shard {place.path} cannot be read: {error}", AGAIN) from error
        if not isinstance(header, dict) or not isinstance(header.get("digests"), dict):
            raise FileFormatError(f"the shard {place.path} carries no digests: it is damaged, or not ours", AGAIN)
        if (header.get("capture"), header.get("shard")) != (place.capture, place.number):
            raise FileFormatError(f"{place.path} is a shard of another capture, or another shard", AGAIN)
        yield Shard(file, place, header["digests"], checked)
