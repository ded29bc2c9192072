"""JSON files that know when they are damaged: an object whose first key is a digest over all the others.

The digest is taken over what the text means, not over the text: a file that was indented anew still reads, one in
which a digit flipped does not. It tells damage, it is no signature.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from mechsteer.errors import FileFormatError, StorageError
from mechsteer.files.atomic import write_atomically

DIGEST = "digest"


def write_record(path: str | os.PathLike[str], data: Mapping[str, Any], *, indent: int | None = 1) -> str:
    """Write a JSON object with its digest, atomically; returns the digest.

    `data` is plain data, as JSON holds it, under string keys other than "digest"; the order of keys is kept, and
    equal data give equal bytes. Raises StorageError when the disk refuses.
    """
    assert DIGEST not in data
    digest = digest_of(data)
    text = json.dumps({DIGEST: digest, **data}, indent=indent, ensure_ascii=False)
    # half a surrogate pair has no UTF-8; as a backslash escape it is JSON all the same
    write_atomically(path, (text + "\n").encode("utf-8", "backslashreplace"))
    return digest


def read_record(path: str | os.PathLike[str], *, hint: str = "") -> dict[str, Any] | None:
    """What `write_record` wrote, without the digest; None where there is no file.

    `hint` says how the file is made again. Raises FileFormatError for a file that is not exactly what was written,
    StorageError where the disk refuses.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}", "check the path and its rights") from error
    try:
        loaded = json.loads(data.decode("utf-8"))
        if not isinstance(loaded, dict):
            raise FileFormatError(f"{path} holds a {type(loaded).__name__} where an object was written", hint)
        found = loaded.pop(DIGEST, None)
        intact = found == digest_of(loaded)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is damaged: it is not JSON ({error})", hint) from error
    if found is None:
        raise FileFormatError(f"{path} carries no digest: it is damaged, or not mechsteer's", hint)
    if not intact:
        raise FileFormatError(f"{path} is damaged: its content is not what its digest was taken over", hint)
    return loaded


def digest_of(data: Any) -> str:
    """Digest (32 hex digits) of plain data as JSON gives it back: tuples are lists, keys are strings in order."""
    return xxhash.xxh3_128_hexdigest(canonical(data))


def canonical(data: Any) -> bytes:
    """One spelling of plain data, the same before it is written and after it is read."""
    text = json.dumps(data, separators=(",", ":"))
    return json.dumps(json.loads(text), separators=(",", ":")).encode("ascii")
