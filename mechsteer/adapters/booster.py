"""What the boosters share: arguments that rebuild them, and the vector of the prompt that they read.

A booster is a small network over p, the prompt's summary, over the activation h of each token, or over both side by
side, [h ; p] (look-back). p is of the activations at the booster's first read site, before any delta of its own, or of
the prompt's embeddings; see `mechsteer.runtime.summary`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from mechsteer.adapters.base import Adapter
from mechsteer.errors import ConfigError, ShapeError
from mechsteer.runtime.context import Context
from mechsteer.runtime.summary import PromptSummary

Pooled = Literal["mean", "last", "first", "embedding"]  # of the prompt's activations, or the mean of its embeddings


class Booster(Adapter):
    """Base of adapters that are a network: it begins as the identity and is linear in its coefficient.

    A subclass hands every argument of its constructor, by name, to this one, which raises ConfigError for switches that
    are neither True nor False and for numbers that are none.
    """

    linear_in_coeff = True
    identity_at_init = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        for name, default in _defaults(type(self)).items():
            given = arguments[name]
            if isinstance(default, bool) and not isinstance(given, bool):
                raise ConfigError(f"{name} is {given!r}", "it is True or False")
            if isinstance(default, float) and (isinstance(given, bool) or not isinstance(given, (int, float))):
                raise ConfigError(f"{name} is {given!r}", "it is a number")
        self._arguments = arguments

    def config(self) -> dict[str, Any]:
        return dict(self._arguments)

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Self:
        with torch.random.fork_rng(devices=[]):  # what is drawn is about to be replaced
            return cls(**config)

    @classmethod
    def fresh(cls, d_read: int | tuple[int, ...], d_write: int, **options: Any) -> Self:
        if isinstance(d_read, tuple):
            raise ConfigError(f"{cls.__name__} reads at one site, not at {len(d_read)}", "name a single site to read")
        known = _defaults(cls)
        if unknown := sorted(set(options) - set(known)):
            raise ConfigError(f"{cls.__name__} has no options {unknown}", f"its options are {list(known)}")
        return cls(d_read=d_read, d_write=d_write, **options)

    def prompt_vector(self, width: int, ctx: Context, dtype: torch.dtype) -> Tensor:
        """p [batch width]. Raises ShapeError where embeddings are not as wide as what is read."""
        assert ctx.summary is not None
        if ctx.summary.shape[-1] != width:
            raise ShapeError(
                f"the embeddings are {ctx.summary.shape[-1]} wide, {type(self).__name__} reads {width}",
                "pool the activations, or read at a site of the residual stream",
            )
        return ctx.summary.to(dtype)

    def beside_prompt(self, acts: Tensor, ctx: Context) -> Tensor:
        """[h ; p] [batch pos 2·d] of every token."""
        prompt = self.prompt_vector(acts.shape[-1], ctx, acts.dtype)
        return torch.cat([acts, prompt.unsqueeze(1).expand_as(acts)], -1)


def _defaults(cls: type[Booster]) -> dict[str, Any]:
    """Option -> its default."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: p.default for name, p in parameters.items() if name not in ("self", "d_read", "d_write")}


def summary_of(pooling: Pooled, bos: bool) -> PromptSummary:
    """The summary by its word. Raises ConfigError for another."""
    if pooling not in get_args(Pooled):
        raise ConfigError(f"no pooling {pooling!r}", f"poolings are {list(get_args(Pooled))}")
    if pooling == "embedding":
        return PromptSummary("mean", bos, source="embedding")
    return PromptSummary(pooling, bos)


def as_activation(boost: Tensor, acts: Tensor) -> Tensor:
    """A delta [batch pos d] of `boost` [batch (1 or pos) d]: every token's, in the dtype of `acts`."""
    boost = boost.to(acts.dtype)
    return boost if boost.shape[1] == acts.shape[1] else boost.expand(-1, acts.shape[1], -1)
