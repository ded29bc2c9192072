"""Singular values that a coefficient c and learned λ [rank] change, in five modes.

    add            S + c·λ
    add_tanh       S + c·tanh λ
    relative_tanh  S ⊙ (1 + c·tanh λ)
    mult           S ⊙ exp(c·λ)
    none           S

All are S at c = 0 and at λ = 0, and negating λ is negating c.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from mechsteer.errors import ConfigError

ScaleMode = Literal["add", "add_tanh", "relative_tanh", "mult", "none"]
LINEAR: tuple[ScaleMode, ...] = ("add", "add_tanh", "relative_tanh", "none")  # in c


def scaled(s: Tensor, lam: Tensor, coeff: float, mode: ScaleMode) -> Tensor:
    """S(c) [rank] of S and λ [rank]. Raises ConfigError for an unknown mode."""
    match mode:
        case "add":
            return s + coeff * lam
        case "add_tanh":
            return s + coeff * lam.tanh()
        case "relative_tanh":
            return s * (1 + coeff * lam.tanh())
        case "mult":
            return s * (coeff * lam).exp()
        case "none":
            return s
        case _:
            raise ConfigError(f"no mode {mode!r} of singular values", f"modes are {list(get_args(ScaleMode))}")
