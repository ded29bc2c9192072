"""Tensors with a JSON header in one safetensors file that knows when it is damaged. No pickle is read or written.

The digest lies in the header and is taken over it and over every tensor's name, dtype, shape and bytes: what loads
is what was saved. Other tools read the tensors as those of any safetensors file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mechsteer.errors import FileFormatError, StorageError
from mechsteer.files.atomic import atomic_path
from mechsteer.files.records import DIGEST, canonical

METADATA = "mechsteer"  # the one key of the file's metadata
KIND = "kind"


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    header: Mapping[str, Any],
    *,
    kind: str,
    one_writer: bool = False,
) -> Path:
    """Write tensors and a header of plain data with their digest, atomically; returns the path.

    `kind` ("steering file", "training checkpoint") is what the file is called in errors, and what `read_tensors` must
    ask for. Equal tensors and headers give equal bytes; `one_writer` as for `atomic_path`. Raises StorageError when
    the disk refuses.
    """
    assert DIGEST not in header
    assert KIND not in header
    header = {KIND: kind, **header}
    # cloned: two names of one memory are refused by safetensors, and saved here as the two values they are
    values = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({DIGEST: _digest(values, header), **header}, separators=(",", ":"))
    try:
        with atomic_path(path, one_writer=one_writer) as part:
            save_file(values, part, metadata={METADATA: text})
            part.chmod(0o644)  # safetensors keeps it for the writer alone; a steering file is made to be shared
    except SafetensorError as error:  # what safetensors makes of a disk that refuses
        raise StorageError(f"cannot write {path}: {error}", "free some space, or choose another folder") from error
    return Path(path)


def read_tensors(
    path: str | os.PathLike[str], *, kind: str, hint: str = ""
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, header) as `write_tensors` was given them, on the CPU; None where there is no file.

    `hint` says how the file is made again. Raises FileFormatError for a file of another kind or one that is not
    exactly what was written, StorageError where the disk refuses.
    """
    path = Path(path)
    tensors, metadata = read_safetensors(path, kind=kind, hint=hint) or ({}, None)
    if metadata is None:
        return None
    if METADATA not in metadata:
        raise FileFormatError(f"{path} is a safetensors file, but not a {kind} of mechsteer's", hint)
    try:
        header = json.loads(metadata[METADATA])
        if not isinstance(header, dict):
            raise FileFormatError(f"the header of {path} is a {type(header).__name__}", hint)
        found = header.pop(DIGEST, None)
        intact = found == _digest(tensors, header)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"the header of {path} is damaged: {error}", hint) from error
    if found is None:
        raise FileFormatError(
            f"the {kind} {path} carries no digest: it is damaged, or of an earlier version of mechsteer", hint
        )
    if not intact:
        raise FileFormatError(f"the {kind} {path} is damaged: its content is not what its digest was taken over", hint)
    of_kind = header.pop(KIND, None)
    if of_kind != kind:
        raise FileFormatError(f"{path} is a {of_kind}, not a {kind}", "give the file of the kind that is asked for")
    return tensors, header


def read_safetensors(path: Path, *, kind: str, hint: str = "") -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """(tensors, metadata) of any safetensors file, None where there is none; nothing but the format is checked.

    Raises FileFormatError for a file that is truncated or none of safetensors, StorageError where the disk refuses.
    """
    try:
        with path.open("rb"):
            pass
        with safe_open(path, framework="pt") as file:
            # copied: a tensor over the file's memory map would change, or crash the process, with the file
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (FileNotFoundError, NotADirectoryError):
        return None
    except SafetensorError as error:
        raise FileFormatError(f"the {kind} {path} is truncated or no safetensors file ({error})", hint) from error
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:  # dtypes torch does not have
        raise FileFormatError(f"the {kind} {path} holds what torch cannot: {error}", hint) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}", "check the path and its rights") from error


def tensor_bytes(tensor: Tensor) -> Any:
    """The bytes of a contiguous CPU tensor, not copied."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


def tensor_digest(name: str, tensor: Tensor) -> str:
    """Digest (32 hex digits) of one tensor with its name, dtype and shape."""
    digest = begun_digest(name, tensor.dtype, tensor.shape)
    digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex digits) of tensors with their names, dtypes and shapes: what a reader without xxhash can check."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(_described(name, tensor.dtype, tensor.shape))
        digest.update(tensor_bytes(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()


def begun_digest(name: str, dtype: torch.dtype, shape: Sequence[int]) -> xxhash.xxh3_128:
    """The digest of a tensor whose bytes are still to come."""
    return xxhash.xxh3_128(_described(name, dtype, shape))


def _described(name: str, dtype: torch.dtype, shape: Sequence[int]) -> bytes:
    return json.dumps([name, str(dtype), list(shape)]).encode()  # the shape says how many bytes follow


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    digest = xxhash.xxh3_128(canonical(header))
    for name, tensor in sorted(tensors.items()):
        digest.update(_described(name, tensor.dtype, tensor.shape))
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
