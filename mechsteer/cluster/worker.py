"""What runs on a worker: one process that is set up once and then computes pieces, told as text and told back as text."""

from __future__ import annotations

import builtins
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mechsteer import errors
from mechsteer.cluster.fitting import require_shared, require_versions
from mechsteer.cluster.library import import_all, named
from mechsteer.errors import ClusterError, MechsteerError, StorageError

_FULL = ("can't allocate memory", "out of memory", "bad_alloc")
_LESS = "fewer workers, or a smaller batch_size"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Of a piece: its value, or the error that came instead."""

    value: Any = None
    error: BaseException | None = None


class Worker:
    """`begin` once, then `compute` for each piece; arguments and answers are JSON, errors come back as answers."""

    def __init__(self) -> None:
        self._compute: Callable[[Any], Any] | None = None
        self._folder, self._token = Path(), ""

    def begin(self, told: str) -> str:
        """Check that this process fits its driver and make the function that computes pieces."""
        return _answered(lambda: self._begin(json.loads(told)))

    def compute(self, piece: str) -> str:
        """One piece. A worker whose driver has gone, and whose folder is another driver's by now, computes nothing."""
        return _answered(lambda: self._computed(json.loads(piece)))

    def _begin(self, told: dict[str, Any]) -> int:
        try:
            os.chdir(told["cwd"])
        except OSError as error:
            raise StorageError(
                f"{told['cwd']}, where the driver runs, is not there on a worker: {error.strerror}",
                "start the driver in a folder that all machines of the cluster have at the same path",
            ) from error
        self._folder, self._token = Path(told["folder"]), told["token"]
        require_shared(self._folder, self._token)
        require_versions(told["versions"])
        torch.set_num_threads(1)
        sys.path[:0] = [*told["paths"], told["cwd"]]  # where a user's own modules may lie
        import_all(told["imports"])
        self._compute = named(told["make"])(told["setup"])
        return os.getpid()

    def _computed(self, piece: Any) -> Any:
        assert self._compute is not None
        require_shared(self._folder, self._token, patience=1)
        return self._compute(piece)


def _answered(function: Callable[[], Any]) -> str:
    try:
        return json.dumps({"value": function()})
    except MechsteerError as error:
        # of a class of the errors room, which the driver finds by its name
        known = next(cls.__name__ for cls in type(error).__mro__ if getattr(errors, cls.__name__, None) is cls)
        return json.dumps({"kind": known, "message": error.message, "hint": error.hint})
    except MemoryError:
        return _out_of_memory()
    except Exception as error:  # noqa: BLE001 (raised again in the process that asked)
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL):
            return _out_of_memory()
        return json.dumps({"kind": type(error).__name__, "message": str(error), "where": traceback.format_exc()})


def _out_of_memory() -> str:
    return json.dumps({"kind": ClusterError.__name__, "message": "a worker ran out of memory", "hint": _LESS})


def read_answer(text: str) -> Answer:
    """What a worker's text says, in the process that asked."""
    found = json.loads(text)
    if "kind" not in found:
        return Answer(value=found["value"])
    kind = getattr(errors, found["kind"], None)
    if "where" not in found and kind is not None:
        return Answer(error=kind(found["message"], found["hint"]))
    cls = getattr(builtins, found["kind"], RuntimeError)
    if cls not in (OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError):  # made of one text
        cls = RuntimeError
    error = cls(found["message"] or found["kind"])
    error.add_note(f"on a worker:\n{found['where']}")
    return Answer(error=error)
