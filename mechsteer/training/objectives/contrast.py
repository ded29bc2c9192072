"""What a contrastive objective is made of: losses of a separation, coherence, monotonicity. Plain functions of tensors.

    sep(c)       mean over pairs and the last tokens of (h_positive − h_negative)·d
    raw          −c·sep(c)
    log_sigmoid  −log σ(β[c·(sep(c) − sep_ref) − m])
    coherence    relu(log p_ref − log p − τ)^k per token
    hinge        relu(m − (o(0) − o(−1))) + relu(m − (o(+1) − o(0))) of the log-odds o(c) of a pair

A bound b replaces c·sep(c) (with a reference: c·(sep(c) − sep_ref)) by b·tanh(·/b): no single batch pulls without end.
The trust region is per token, because a mean over tokens is gamed: one token ruined, all others made likelier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mechsteer.errors import ConfigError

LossForm = Literal["log_sigmoid", "raw"]


@dataclass(frozen=True, kw_only=True)
class SeparationLoss:
    """The loss of a separation. Raises ConfigError for settings out of range."""

    form: LossForm = "log_sigmoid"
    beta: float = 0.1
    margin: float = 0.5
    bound: float | None = None

    def __post_init__(self) -> None:
        if self.form not in get_args(LossForm):
            raise ConfigError(f"form is {self.form!r}", f"choose one of {list(get_args(LossForm))}")
        if not (self.beta > 0 and math.isfinite(self.margin)) or not (self.bound is None or self.bound > 0):
            raise ConfigError(
                f"beta is {self.beta}, margin {self.margin}, bound {self.bound}",
                "beta and the bound are above 0, the margin is finite",
            )

    def __call__(self, sep: Tensor, sep_ref: Tensor, c: float) -> Tensor:
        """The loss of sep(c), for c −1 or +1."""
        gained = c * sep if self.form == "raw" else c * (sep - sep_ref)
        if self.bound is not None:
            gained = self.bound * torch.tanh(gained / self.bound)
        if self.form == "raw":
            return -gained
        return -torch.nn.functional.logsigmoid(self.beta * (gained - self.margin))


@dataclass(frozen=True, kw_only=True)
class TrustRegion:
    """By how many nats a token may become less likely, and how steeply more costs. Raises ConfigError."""

    tolerance: float = 0.2
    power: int = 2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0) or self.power < 1:
            raise ConfigError(
                f"tolerance is {self.tolerance}, power {self.power}", "nats, 0 or more, and a power of at least 1"
            )

    def __call__(self, log_p: Tensor, log_p_ref: Tensor) -> Tensor:
        """Cost per token [n]; zero inside."""
        return (log_p_ref - log_p - self.tolerance).clamp(min=0) ** self.power


def monotone_hinge(minus: Tensor, base: Tensor, plus: Tensor, margin: float = 0.0) -> Tensor:
    """Cost [n_pairs] of log-odds [n_pairs] at c = −1, 0, +1 that do not rise by `margin` in each step."""
    return (margin - (base - minus)).clamp(min=0) + (margin - (plus - base)).clamp(min=0)
