"""An adapter around another: it changes the other's delta, and leaves its state, tags and summary as they are."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mechsteer.adapters.base import TAGS, Adapter


class Wrapper(Adapter):
    """Base of such adapters. Each instance has the tags and the prompt summary of what it wraps."""

    linear_in_coeff, identity_at_init = False, False  # of no instance: see above

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter
        for name in (*TAGS, "summary", "weight_hash"):
            setattr(self, name, getattr(adapter, name))

    def select_rows(self, state: Any, index: Tensor) -> Any:
        return self.adapter.select_rows(state, index)
