"""Names of hooks: which hook of a model class a point is, and what its value means."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from mechsteer.errors import UnknownSiteError, closest
from mechsteer.models.record import record_of


class Names(abc.ABC):
    """The hooks of one model by name."""

    def __init__(self, model: Any) -> None:
        self.model, self.cfg = model, model.cfg

    @abc.abstractmethod
    def hook_name(self, layer: int, point: str, *, write: bool = False) -> str:
        """Hook name of a point; raises UnknownSiteError where the class has none, or has one that cannot be written."""

    @abc.abstractmethod
    def read_as(self, layer: int, point: str) -> Callable[[Tensor], Tensor] | None:
        """What makes the hook's value the point's activation; None where it is that already."""

    @property
    def hooks(self) -> Mapping[str, Any]:
        """Hook name -> hook point. A bridge builds this mapping anew at every access, so it is kept per model."""
        mode = bool(getattr(self.model, "compatibility_mode", False))  # which adds names
        record = record_of(self.model)
        if record.hooks is None or record.hooks[0] != mode:
            record.hooks = (mode, dict(self.model.hook_dict))
        return record.hooks[1]

    def has_hook(self, name: str) -> bool:
        return name in self.hooks

    def check_hook(self, name: str) -> str:
        """`name`, or UnknownSiteError with the closest names."""
        known = self.hooks
        if name not in known:
            raise UnknownSiteError(
                f"no hook {name!r} in {type(self.model).__name__} with {self.cfg.n_layers} layers",
                f"closest names are {closest(name, known)}",
            )
        return name
