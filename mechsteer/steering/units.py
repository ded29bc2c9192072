"""A strength in the unit that one thinks in: multiples of what the adapter adds, of the residual's norm, or nats of KL.

    raw        coefficient = strength
    residual   coefficient = strength / (mean ‖delta‖ / mean ‖activation‖ at coefficient 1)
    kl         the coefficient that spends the strength, by `calibrate`

A raw strength says nothing across layers or models; a share of the residual's norm compares layers, KL compares methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from mechsteer.errors import ConfigError
from mechsteer.steering.calibration import calibrate, strengths
from mechsteer.steering.interventions import Intervention

Unit = Literal["raw", "residual", "kl"]
UNITS: tuple[Unit, ...] = ("raw", "residual", "kl")


def at_strength(
    model: Any,
    iv: Intervention,
    strength: float,
    unit: Unit,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int = 32,
) -> Intervention:
    """`iv` with the coefficient that `strength` in `unit` stands for on `prompts`; its adapter is linear in it.

    A negative strength points the other way, 0 adds nothing in any unit. Raises ConfigError for an unknown unit, a
    strength that is no finite number, an adapter that is not linear in its coefficient (unit "residual"), one that adds
    nothing, and what `calibrate` raises.
    """
    if unit not in UNITS:
        raise ConfigError(f"no unit {unit!r} of strength", f"choose one of {list(UNITS)}")
    if not math.isfinite(strength):
        raise ConfigError(f"the strength is {strength}", "give a finite number")
    if strength == 0 or unit == "raw":
        return replace(iv, coeff=float(strength))
    sign = math.copysign(1.0, strength)
    if unit == "kl":
        found = calibrate(
            model, iv.with_coeff(sign), prompts, target_kl=abs(strength), tolerance=0.05, max_new_tokens=max_new_tokens
        )
        assert isinstance(found, Intervention)
        return found
    if not iv.adapter.linear_in_coeff:
        raise ConfigError(
            f"{type(iv.adapter).__name__} is not linear in its coefficient", "give its strength in raw or kl"
        )
    (share,) = strengths(model, iv.with_coeff(1.0), prompts, max_new_tokens=max_new_tokens).relative
    if share == 0:
        raise ConfigError("the intervention adds nothing at any position of these prompts", "is its vector zero?")
    return iv.with_coeff(strength / share)
