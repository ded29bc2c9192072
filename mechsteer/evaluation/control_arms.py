"""Arms that control a steering of any kind and are made of the steering itself.

magnitude only     when and how strongly it adds something is kept, the direction is one random one per site
shuffled router    each weight goes to another atom: its directions are kept, not which is chosen when
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mechsteer.adapters import Adapter, MagnitudeOnly
from mechsteer.directions import random_direction
from mechsteer.errors import ConfigError
from mechsteer.evaluation.arms import Arm
from mechsteer.models import backend_of
from mechsteer.runtime.drawing import as_generator
from mechsteer.steering.interventions import Intervention, Interventions, Steering, writing
from mechsteer.steering.presets import width


def magnitude_only_arm(
    model: Any,
    steering: Interventions,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str = "magnitude only",
    note: str = "as long at each token as what the adapter adds, along one random direction",
) -> Arm:
    """`steering` with every delta turned into one random direction per intervention, its length kept token by token.

    The directions are drawn in the order of the interventions, from `generator` or a new one of `seed` (default 0).
    Raises ConfigError for both.
    """
    drawn = as_generator(generator, 0 if generator is None and seed is None else seed)
    assert drawn is not None

    def control(iv: Intervention) -> Intervention:
        direction = random_direction(torch.ones(width(model, iv.site)), drawn)
        device = backend_of(model).device_at(iv.site.at(model).layer)
        return replace(iv, adapter=MagnitudeOnly(iv.adapter, direction).to(device))

    return Arm(name=name, steering=_each(steering, control), note=note, role="control")


def shuffled_router_arm(
    steering: Interventions,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    name: str = "shuffled router",
    note: str = "each weight of the router goes to another atom",
) -> Arm:
    """`steering` with the routers of its adapters shuffled (`Adapter.shuffled`); adapters without one stay as they are.

    An adapter at several sites is shuffled once. Drawn from `generator` or a new one of `seed` (default 0). Raises
    ConfigError for both, and where no adapter has a router.
    """
    drawn = as_generator(generator, 0 if generator is None and seed is None else seed)
    assert drawn is not None
    kinds = list(dict.fromkeys(type(iv.adapter).__name__ for iv in writing(steering)))
    shuffled: dict[Adapter, Adapter | None] = {}

    def control(iv: Intervention) -> Intervention:
        if iv.adapter not in shuffled:
            shuffled[iv.adapter] = iv.adapter.shuffled(drawn)
        other = shuffled[iv.adapter]
        return iv if other is None else replace(iv, adapter=other)

    changed = _each(steering, control)
    if all(other is None for other in shuffled.values()):
        raise ConfigError(
            f"no adapter here has a router to shuffle: {kinds}", "those that choose among atoms define shuffled()"
        )
    return Arm(name=name, steering=changed, note=note, role="control")


def _each(steering: Interventions, control: Callable[[Intervention], Intervention]) -> Interventions:
    """The controls of all interventions, in their order."""
    controls = [control(iv) for iv in writing(steering)]
    return controls[0] if len(controls) == 1 else Steering(controls)
