"""JSON files that know when they were changed: an object with a digest of everything else in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mechsteer.errors import FileFormatError
from mechsteer.files import write_atomically

SEAL = "digest"


def to_json(value: Any) -> str:
    """Stable JSON of plain data."""
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def digest_of(content: Mapping[str, Any]) -> str:
    """sha256 of plain data, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def write_sealed(path: Path, content: Mapping[str, Any]) -> str:
    """Write an object of plain data with its digest, which is returned."""
    digest = digest_of(content)
    write_atomically(path, to_json({**content, SEAL: digest}))
    return digest


def read_sealed(path: Path, remedy: str) -> dict[str, Any] | None:
    """The object in a sealed file, None where there is none. Raises FileFormatError, with `remedy`, for a damaged one."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(loaded, dict):
            raise FileFormatError(f"{path} holds a {type(loaded).__name__}", remedy)
        seal = loaded.pop(SEAL, None)
        intact = seal == digest_of(loaded)
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise FileFormatError(f"{path} cannot be read: {error}", remedy) from error
    if not intact:
        raise FileFormatError(f"{path} is not as it was written", remedy)
    return {**loaded, SEAL: seal}


def file_digest(path: Path) -> str:
    """sha256 of a file; of a folder, of the names and contents of all its files; "absent" where there is neither."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        return "absent"
    parts = {str(p.relative_to(path)): file_digest(p) for p in sorted(path.rglob("*")) if p.is_file()}
    return digest_of(parts)
