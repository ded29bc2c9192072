"""A fitted probe as an observer: it notes its score at every token while the model writes.

Of token t it notes x · direction + intercept, or σ of the scaled score, where x is

- `pooling="token"`: the activation at t;
- `pooling="mean"`: the mean of the activations from `since` to t, which is what a probe of mean-pooled texts was fitted on.

A sum and a count per row are all of its state, so that a text token by token gives the same as one pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, ShapeError
from mechsteer.runtime.context import Context
from mechsteer.runtime.observers import Observer

Reads = Literal["token", "mean"]
Since = Literal["generated", "all"]
NAME = "probe"


class OnlineProbe(Observer):
    """The linear probe (direction [d_model], intercept, scale) at one site, as readings named "probe".

    `output`: "logit" (0 is undecided) or "probability". `since`: a mean begins with the first generated token, or with
    the second token of the row ("all": an attention sink's norm would hide everything else); tokens before have none
    (NaN). In a steering file it is the observer "online_probe".

    Raises ConfigError (what is no setting), ShapeError (the direction is no vector).
    """

    direction: Tensor
    intercept: Tensor
    scale: Tensor

    def __init__(
        self,
        direction: Any,
        intercept: float = 0.0,
        *,
        scale: float = 1.0,
        pooling: Reads = "token",
        since: Since = "generated",
        output: Literal["logit", "probability"] = "logit",
    ) -> None:
        super().__init__()
        vector = torch.as_tensor(direction).detach().to(torch.float32).clone()
        if vector.ndim != 1:
            raise ShapeError(f"the direction has shape {list(vector.shape)}.", "give one vector [d_model].")
        for value, known in ((pooling, get_args(Reads)), (since, get_args(Since)), (output, ("logit", "probability"))):
            if value not in known:
                raise ConfigError(f"an online probe has no {value!r}.", f"use one of {list(known)}.")
        self.pooling, self.since, self.output = pooling, since, output
        self.register_buffer("direction", vector)
        self.register_buffer("intercept", torch.tensor(float(intercept)))
        self.register_buffer("scale", torch.tensor(float(scale)))

    @classmethod
    def of(cls, probe: Any, **options: Any) -> OnlineProbe:
        """That of a fitted `LinearProbe`. Raises ConfigError for what has no direction."""
        if not hasattr(probe, "direction_"):
            raise ConfigError(f"{type(probe).__name__} has no direction_.", "fit a LinearProbe first.")
        return cls(probe.direction_, probe.intercept_, scale=probe.scale_, **options)

    def observe(self, acts: Tensor, state: Any, ctx: Context) -> Any:
        """Note the score of each token; see the module."""
        wide = acts.float()
        if self.pooling == "token":
            ctx.note(NAME, self._out(wide @ self.direction + self.intercept))
            return state
        start = ctx.prompt_lengths[:, None] if self.since == "generated" else 1
        counted = ctx.mask & (ctx.positions >= start)
        # only the projection is averaged: it is linear
        along = torch.where(counted, wide @ self.direction, 0.0)
        total, count = (along.new_zeros(len(along)), along.new_zeros(len(along))) if state is None else state
        sums = total[:, None] + along.cumsum(1)
        counts = count[:, None] + counted.to(along.dtype).cumsum(1)
        mean = sums / counts.clamp(min=1) + self.intercept
        ctx.note(NAME, torch.where(counts > 0, self._out(mean), torch.nan))
        return sums[:, -1], counts[:, -1]

    def config(self) -> dict[str, Any]:
        """Its settings and size."""
        return {
            "d_model": len(self.direction),
            "pooling": self.pooling,
            "since": self.since,
            "output": self.output,
        }

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> OnlineProbe:
        """One of this shape with a direction of zeros. Raises ConfigError without a size."""
        if "d_model" not in config:
            raise ConfigError("an online probe needs d_model.", "it is made from a probe: OnlineProbe.of(probe).")
        options = {key: value for key, value in config.items() if key != "d_model"}
        return cls(torch.zeros(int(config["d_model"])), **options)

    def _out(self, scores: Tensor) -> Tensor:
        return scores if self.output == "logit" else torch.sigmoid(self.scale * scores)
