"""The adapter contract: an nn.Module that gives a delta and never touches a model.

h ← h + scope · delta(h_read, state, coeff, ctx)

Gating, scope, norms and attribution are then the same code for all adapters. State comes in and goes out;
nothing of a run is kept on the adapter, so one adapter serves any number of runs at once.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from mechsteer.runtime.scopes import Context


class Adapter(nn.Module, abc.ABC):
    """Base of all adapters. The four tags are what the contract tests read."""

    linear_in_coeff: ClassVar[bool]  # delta(2c) == 2 delta(c)
    identity_at_init: ClassVar[bool]  # a blank adapter adds exactly nothing
    per_prompt: ClassVar[bool] = False  # runs once per prompt; its result is reused at every later token
    stateful: ClassVar[bool] = False  # must see every forward, also those its scope does not touch

    @abc.abstractmethod
    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        """(change at the write site, new state).

        `acts` [batch pos d_model] is the activation at the read site; `state` is None when a run begins (a
        forward with an empty cache). The adapter applies `coeff` itself: scaling outside is wrong for
        rotations. No in-place writes, loops over the batch, or device moves here.
        """

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-able arguments from which `blank` rebuilds the module before its tensors are loaded."""

    @classmethod
    @abc.abstractmethod
    def blank(cls, config: Mapping[str, Any]) -> Adapter:
        """A fresh adapter of this shape: the identity where `identity_at_init`."""
