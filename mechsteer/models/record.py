"""What one model keeps for us: a record per model, which goes when the model goes.

Everything else that belongs to a model for a while (open sessions, hints of the loop that runs) belongs to a run and
lies in context variables: two threads on one model have two of them. The fingerprint is not kept: an edit through
`.data` changes weights without a trace, and reading them again takes milliseconds.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mechsteer.models.protocol import Remove


@dataclass
class Patch:
    """A method of the model that is wrapped while anybody needs it, by one wrapper for all."""

    undo: Remove
    n_users: int = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `load_model` was given, as plain data: another process makes the same model of it."""

    name: str  # bundled, of the hub, or an absolute path
    backend: str
    dtype: str
    device: str | None


@dataclass
class ModelRecord:
    """One per model. `lock` is held while what all threads share is changed: hooks, patches, folded weights."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    hooks: tuple[bool, dict[str, Any]] | None = None  # (compatibility mode, hook name -> hook point)
    twin: tuple[Any, dict[str, int]] | None = None  # the plain module, and which parameters it was built from
    n_block_outputs: int | None = None  # 0: a block returns a tensor; n: a tuple of n, the residual first
    folded: list[Remove] | None = None  # how to take out what is folded in; None: nothing is
    patches: dict[str, Patch] = field(default_factory=dict)
    recipe: Recipe | None = None  # of one that load_model read from files
    watchers: list[Any] = field(default_factory=list)  # of forwards, where the class has no hooks for them

    def patched(self, name: str, patch: Callable[[], Remove]) -> Remove:
        """Do `patch()` unless it is done already; what is returned undoes it when the last who asked has left."""
        with self.lock:
            if name in self.patches:
                self.patches[name].n_users += 1
            else:
                self.patches[name] = Patch(patch())

        def leave() -> None:
            with self.lock:
                self.patches[name].n_users -= 1
                if not self.patches[name].n_users:
                    self.patches.pop(name).undo()

        return leave


_RECORDS: weakref.WeakKeyDictionary[Any, ModelRecord] = weakref.WeakKeyDictionary()
_NEW = threading.Lock()


def record_of(model: Any) -> ModelRecord:
    """The record of a model, made when first asked for."""
    record = _RECORDS.get(model)
    if record is None:
        with _NEW:
            record = _RECORDS.setdefault(model, ModelRecord())
    return record
