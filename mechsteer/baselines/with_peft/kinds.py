"""One method of PEFT's: how it is configured, and what a coefficient is to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from mechsteer.baselines.base import Method
from mechsteer.baselines.models import PerSign, Scaled
from mechsteer.baselines.setup import Setup
from mechsteer.baselines.trainer import train_method
from mechsteer.baselines.with_peft.coefficients import added, turned
from mechsteer.baselines.with_peft.wrapped import sizes, target_names, wrapped

Coefficient = Literal["added", "angle", "sign"]
_SCALINGS = {"added": added, "angle": turned}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`options(setup)`: arguments of PEFT's configuration, beside the targets. `lr`: AdamW's, where none is set.

    `coefficient`: "added" and "angle" as `mechsteer.baselines.with_peft.coefficients` has them; "sign": trained once per
    sign, of which alone the coefficient then tells.
    """

    name: str
    config: Callable[[], Any]
    options: Callable[[Setup], dict[str, Any]]
    coefficient: Coefficient
    lr: float

    def __call__(self, setup: Setup) -> Method:
        """Train it. Raises ConfigError where PEFT is missing, lacks it or refuses the maps, NonFiniteError."""
        config = partial(self.config(), target_modules=target_names(setup), **self.options(setup))
        label, base = setup.label(self.name), setup.model
        made = [wrapped(setup, config(), setup.seed) for _ in range(2 if self.coefficient == "sign" else 1)]
        parameters = [p for one in made for p in one.parameters]
        n = sum(p.numel() for p in parameters)
        method: Method
        if self.coefficient == "sign":
            method = PerSign(label, base, made[0].model, made[1].model, n, tuple(one.peft_model for one in made))
        else:
            scaling = partial(_SCALINGS[self.coefficient], made[0].targets)
            method = Scaled(label, base, made[0].model, scaling, n, made[0].peft_model)
        train_method(method, parameters, base, setup.objective(), setup.settings(self.lr), progress=setup.progress)
        return method


def rank_of(setup: Setup) -> int:
    """The rank, or the smallest side of any map."""
    return min(setup.rank, *(min(pair) for pair in sizes(setup)))


def block_of(setup: Setup, side: Literal[0, 1], largest: int) -> int:
    """The largest power of 2 up to `largest` that divides d_in (side 0) or d_out (side 1) of every map."""
    size = largest
    while any(pair[side] % size for pair in sizes(setup)):
        size //= 2
    return size
