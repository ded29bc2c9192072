"""One shard of an activation store on disk: a safetensors file written in place, read by `mechsteer.activations.shards`.

The lengths of a shard's prompts are known before the model runs, so the file is laid out first and each
batch is written where it belongs: nothing accumulates in memory, whatever the size of a shard. It is written
under another name and renamed when complete and synced, so a file with a shard's name is a whole shard.

A shard holds `tokens` and `lengths` (int32), `mask` (bool) and per site, named like resid_post@3, the
activations [n_tokens ...] of all real tokens, prompt after prompt, with a table of one digest per prompt, named like
resid_post@3:digests (uint8 [n_prompts 16]): what is read of a shard is checked alone, and nothing else. The file's
metadata says which shard of which capture it is, with a digest of each of `tokens`, `lengths`, `mask` and of each table.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from mechsteer.errors import StorageError
from mechsteer.files import PARTIAL, rename
from mechsteer.files.tensors import METADATA, begun_digest

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CODES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
AGAIN = "run the same capture again: it makes this shard anew"
PIECE = 2**18  # bytes: read and digested within a processor's cache; part of the format
DIGEST_SIZE = 16  # bytes
OF_CODE = {code: dtype for dtype, code in CODES.items()}


def table_name(site: str) -> str:
    """The tensor that holds the digests of a site's prompts."""
    return f"{site}:digests"


def bytes_digest(pieces: Iterable[Any]) -> bytes:
    """Digest (16 bytes) of the activations of one prompt, given in pieces of PIECE bytes: that of the pieces' digests."""
    return xxhash.xxh3_128_digest(b"".join(map(xxhash.xxh3_128_digest, pieces)))


def table_digest(site: str, dtype: torch.dtype, shape: Sequence[int], table: bytes) -> str:
    """Digest (32 hex digits) of a site's activations, of `shape`: of what they are, and of their prompts' digests."""
    digest = begun_digest(site, dtype, shape)
    digest.update(table)
    return digest.hexdigest()


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
        self,
        place: Place,
        tokens: np.ndarray,
        lengths: np.ndarray,
        mask: np.ndarray,
        dtype: torch.dtype,
        writer: str = "",
    ) -> None:
        """`writer` tells several processes apart that may write one shard at once, each under a name of its own."""
        self.place, self.path, self.dtype = place, (path := place.path), dtype
        self._fixed = {"tokens": tokens.astype("<i4"), "lengths": lengths.astype("<i4"), "mask": mask}
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        self._partial = path.with_name(f"{path.name}{writer}{PARTIAL}")
        self._file: int | None = None
        self._entries: dict[str, dict[str, Any]] = {}
        self._starts: dict[str, int] = {}
        self._sites: tuple[str, ...] = ()

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
        parts += [(table_name(name), torch.uint8, [len(self._fixed["lengths"]), DIGEST_SIZE]) for name in shapes]
        parts.append(("mask", torch.bool, [n_tokens]))  # last: it alone is not aligned to its neighbours
        for name, dtype, shape in parts:
            begin, end = end, end + int(np.prod(shape)) * dtype.itemsize
            self._entries[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": [begin, end]}
        self._sites = tuple(shapes)
        # the digests come when the tensors are there
        header = self._header(dict.fromkeys((*self._fixed, *self._sites), "0" * 32))
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

    def _finish(self) -> None:
        """Write the digests of what lies in the file, read in pieces: no tensor has to fit into memory."""
        digests = {}
        for name in (*self._fixed, *self._sites):
            entry, start = self._entries[name], self._starts[name]
            size = entry["data_offsets"][1] - entry["data_offsets"][0]
            dtype, shape = OF_CODE[entry["dtype"]], entry["shape"]
            if name in self._fixed:
                digest = begun_digest(name, dtype, shape)
                for piece in self._pieces(start, size):
                    digest.update(piece)
                digests[name] = digest.hexdigest()
                continue
            bounds = (self._offsets * (size // shape[0])).tolist()
            table = b"".join(bytes_digest(self._pieces(start + a, b - a)) for a, b in itertools.pairwise(bounds))
            self._put(memoryview(table), self._starts[table_name(name)])
            digests[name] = table_digest(name, dtype, shape, table)
        self._put(memoryview(self._header(digests)), 8)

    def _pieces(self, at: int, size: int) -> Iterator[bytes]:
        assert self._file is not None
        for done in range(0, size, PIECE):
            yield os.pread(self._file, min(PIECE, size - done), at + done)

    def _put(self, data: memoryview, at: int) -> None:
        assert self._file is not None
        while data:
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written

    def commit(self) -> None:
        """Write the digests, sync and rename."""
        assert self._file is not None
        with storage_errors(self.path):
            self._finish()
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
