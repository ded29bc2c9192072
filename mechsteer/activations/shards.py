"""Reading a shard of an activation store (`mechsteer.activations.files` says what it holds and writes it).

What is asked for is read straight into the tensor that is handed out, and checked there against its digest, piece by
piece while the piece still lies in the processor's cache: that is faster than copying it out of a memory map, whose
pages cost more to map than to copy, and no file that is cut or changed meanwhile can harm what was handed out.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from typing import Any

import torch
from torch import Tensor

from mechsteer.activations.files import (
    AGAIN,
    DIGEST_SIZE,
    OF_CODE,
    PIECE,
    Place,
    bytes_digest,
    table_digest,
    table_name,
)
from mechsteer.errors import FileFormatError
from mechsteer.files.tensors import METADATA, tensor_bytes, tensor_digest

# what reading a file of any content can come to
_UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, RecursionError)


@dataclass(frozen=True)
class _Entry:
    """What the header says of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # in the file, bytes
    size: int  # bytes


class Shard:
    """One open shard: `shard["tokens"]` is a small tensor, `shard.site("resid_post@3")` reads activations.

    Activations are checked whenever they are read; the small tensors but for those of which the names are in `checked`,
    to which those that are read are added.
    """

    def __init__(
        self, file: FileIO, place: Place, entries: Mapping[str, _Entry], digests: Mapping[str, Any], checked: set[str]
    ) -> None:
        self.place, self._file, self._entries, self._digests, self._checked = place, file, entries, digests, checked

    def __getitem__(self, name: str) -> Tensor:
        """`tokens`, `lengths` or `mask`. Raises FileFormatError for a tensor that is not what was written."""
        with _unreadable(self.place):
            tensor = self._whole(name)
            self._require(name, lambda: tensor_digest(name, tensor))
            if name != "lengths":
                self._require_tokens(name, tensor.shape)
            return tensor

    def site(self, name: str) -> SiteReader:
        """The activations of a site. Raises FileFormatError where the table of their digests is not what was written."""
        with _unreadable(self.place):
            entry, table = self._entries[name], bytes(tensor_bytes(self._whole(table_name(name))))
            self._require(name, lambda: table_digest(name, entry.dtype, entry.shape, table))
            self._require_tokens(name, entry.shape)
            return SiteReader(self, name, entry, table)

    def check(self, sites: Iterable[str]) -> None:
        """Raise FileFormatError unless the shard holds just these sites, all as they were written."""
        sites = list(sites)
        wanted = {"tokens", "lengths", "mask", *sites, *map(table_name, sites)}
        if self._entries.keys() != wanted:
            raise FileFormatError(f"the shard {self.place.path} does not hold {sorted(wanted)}", AGAIN)
        _, _, lengths = self["tokens"], self["mask"], self["lengths"].tolist()
        if sum(lengths) != self.place.n_tokens:
            raise FileFormatError(f"the lengths of {self.place.path} are not of {self.place.n_tokens} tokens", AGAIN)
        for name in sites:
            for _ in self.site(name).prompts(lengths):
                pass

    def pieces(self, at: int, into: memoryview) -> Iterator[memoryview]:
        """Read the file from `at` on into memory; yields each piece when it is there."""
        self._file.seek(at)
        for done in range(0, len(into), PIECE):
            piece = left = into[done : done + PIECE]
            while left:
                if not (n := self._file.readinto(left)):
                    raise ValueError("it is cut")
                left = left[n:]
            yield piece

    def _whole(self, name: str) -> Tensor:
        entry = self._entries[name]
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        for _ in self.pieces(entry.start, memoryview(tensor_bytes(tensor))):
            pass
        return tensor

    def _require(self, name: str, digest: Callable[[], str]) -> None:
        if name not in self._checked:
            if self._digests.get(name) != digest():
                raise FileFormatError(f"{name} of the shard {self.place.path} is damaged", AGAIN)
            self._checked.add(name)

    def _require_tokens(self, name: str, shape: tuple[int, ...]) -> None:
        if shape[0] != self.place.n_tokens:
            raise FileFormatError(f"{name} of {self.place.path} is not of {self.place.n_tokens} tokens", AGAIN)


class SiteReader:
    """The activations of one site in an open shard, prompt by prompt."""

    def __init__(self, shard: Shard, name: str, entry: _Entry, table: bytes) -> None:
        self._shard, self._name, self._start, self._table = shard, name, entry.start, table
        self.dtype, self.shape = entry.dtype, entry.shape  # [n_tokens ...]
        self.n_bytes = entry.size // entry.shape[0]  # of one token

    def read(self, prompt: int, first: int, into: memoryview) -> None:
        """Read the activations of a prompt, whose first token is `first` of the shard's, into memory of their size.

        Raises FileFormatError for any that is not what was written: what lies in memory then is not to be used.
        """
        with _unreadable(self._shard.place):
            found = bytes_digest(self._shard.pieces(self._start + first * self.n_bytes, into))
        if found != self._table[prompt * DIGEST_SIZE : (prompt + 1) * DIGEST_SIZE]:
            path = self._shard.place.path
            raise FileFormatError(f"{self._name} of the shard {path} is damaged (at its prompt {prompt})", AGAIN)

    def prompts(self, lengths: Sequence[int]) -> Iterator[Tensor]:
        """[pos ...] of every prompt of the shard, whose lengths these are; each is there until the next is asked for."""
        values = torch.empty(max(lengths), *self.shape[1:], dtype=self.dtype)
        memory, first = memoryview(tensor_bytes(values)), 0
        for prompt, length in enumerate(lengths):
            self.read(prompt, first, memory[: length * self.n_bytes])
            yield values[:length]
            first += length


@contextlib.contextmanager
def open_shard(place: Place, checked: set[str] | None = None) -> Iterator[Shard]:
    """The shard that lies at a place; raises FileFormatError if it is missing, truncated, or another one.

    `checked`: as for `Shard`, of what was read of it before.
    """
    with contextlib.ExitStack() as stack:
        with _unreadable(place):
            file = stack.enter_context(FileIO(place.path))
            entries, header = _header(file)
        if not isinstance(header, dict) or not isinstance(header.get("digests"), dict):
            raise FileFormatError(f"the shard {place.path} carries no digests: it is damaged, or not ours", AGAIN)
        if (header.get("capture"), header.get("shard")) != (place.capture, place.number):
            raise FileFormatError(f"{place.path} is a shard of another capture, or another shard", AGAIN)
        yield Shard(file, place, entries, header["digests"], set() if checked is None else checked)


def _header(file: FileIO) -> tuple[dict[str, _Entry], Any]:
    """What the header of a safetensors file says of its tensors, and our metadata; raises some of _UNREADABLE."""
    size = os.fstat(file.fileno()).st_size
    start = 8 + int.from_bytes(file.read(8), "little")
    if start > size:
        raise ValueError("it is cut, or no safetensors file")
    raw = json.loads(file.read(start - 8))
    metadata = json.loads(raw.pop("__metadata__", {}).get(METADATA, "null"))
    entries = {}
    for name, entry in raw.items():
        dtype, shape, (begin, end) = OF_CODE[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if (
            not shape
            or not all(type(n) is int and n > 0 for n in shape)
            or {type(begin), type(end)} != {int}
            or begin < 0
        ):
            raise ValueError(f"{name} is of no size that can be")
        if begin + math.prod(shape) * dtype.itemsize != end or start + end > size:
            raise ValueError(f"{name} does not lie in it")
        entries[name] = _Entry(dtype, tuple(shape), start + begin, end - begin)
    if start + sum(entry.size for entry in entries.values()) != size:
        raise ValueError("it is cut, or more was added to it")
    return entries, metadata


@contextlib.contextmanager
def _unreadable(place: Place) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise FileFormatError(f"the shard {place.path} cannot be read: {error}", AGAIN) from error
