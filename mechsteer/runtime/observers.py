"""Observers: what reads at a site and writes nothing (an online probe, a signal of the trajectory).

An observer has an adapter's contract without the delta: state comes in and goes out, nothing of a run is kept
on the observer, and what it has to say it notes through the context, one value per token. An `Observation`
(`mechsteer.steering.interventions`) says where.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from mechsteer.errors import ConfigError
from mechsteer.runtime.context import Context


class Observer(nn.Module, abc.ABC):
    """Base of all observers. It sees every forward, also those that its observation's scope does not touch."""

    def __repr__(self) -> str:
        return described(self)

    @abc.abstractmethod
    def observe(self, acts: Any, state: Any, ctx: Context) -> Any:
        """The new state, after `ctx.note(name, values)` of what there is to say about each token.

        `acts` [batch pos d] is the activation at the site (a tuple of them where it reads at several); `state` is
        None when a run begins. No in-place writes, loops over the batch, or device moves here.
        """

    def select_rows(self, state: Any, index: Tensor) -> Any:
        """The state of the rows `index` alone; see `mechsteer.runtime.observers.select_rows`."""
        return select_rows(state, index)

    def config(self) -> dict[str, Any]:
        """JSON-able arguments from which `blank` rebuilds the module; raises ConfigError where it has none."""
        raise ConfigError(f"{type(self).__name__} has no config()", "define config() and blank() to register it")

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Observer:
        """A fresh observer of this shape."""
        raise ConfigError(f"{cls.__name__} has no blank()", f"define config() and blank() to register it ({config})")


def described(module: nn.Module) -> str:
    """An adapter or observer in a line: its class, and of each tensor that it has the shape and the norm.

    >>> described(nn.Linear(2, 1, bias=False))[:21]
    'Linear(weight [1, 2],'
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    parts = [f"{name} {list(tensor.shape)}, norm {float(tensor.detach().float().norm()):.3g}" for name, tensor in named]
    if len(parts) > 3:
        parts = [f"{len(parts)} tensors", f"{sum(tensor.numel() for _, tensor in named)} numbers"]
    return f"{type(module).__name__}({'; '.join(parts)})"


def select_rows(state: Any, index: Tensor) -> Any:
    """Of a state (tensors with the batch first, in tuples, lists and dicts) the rows `index`.

    Raises ConfigError for anything else in it: an adapter or observer with such a state overrides `select_rows`.
    """

    def select(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf if leaf.ndim == 0 else leaf.index_select(0, index.to(leaf.device))
        if leaf is None or isinstance(leaf, (bool, int, float, str, torch.dtype)):
            return leaf
        raise ConfigError(
            f"rows cannot be selected in a state with a {type(leaf).__name__}", "override select_rows(state, index)"
        )

    return _pytree.tree_map(select, state)
