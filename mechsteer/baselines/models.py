"""Methods that run another model than the base: one whose change is scaled, or one model for each sign.

At c = 0 both are the base model itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from mechsteer.baselines.base import Method
from mechsteer.steering.arguments import coefficient


class Scaled(Method):
    """`model` is at c = 1; `scaling(c)` is a context inside which it is at c.

    `source`: PEFT's model, with its modules inside the bridge `model`.
    """

    def __init__(
        self,
        name: str,
        base: Any,
        model: Any,
        scaling: Callable[[float], AbstractContextManager[None]],
        n_parameters: int,
        source: Any = None,
    ) -> None:
        self.name, self.base, self.model, self.scaling = name, base, model, scaling
        self.n_parameters, self.source = n_parameters, source

    @contextlib.contextmanager
    def at(self, coeff: float) -> Iterator[Any]:
        value = coefficient(coeff)
        if not value:
            yield self.base
        elif value == 1.0:
            yield self.model
        else:
            with self.scaling(value):
                yield self.model


class PerSign(Method):
    """Of the coefficient only the sign counts: `positive` where c > 0, `negative` where c < 0.

    `sources`: PEFT's models, with their modules inside the two bridges.
    """

    def __init__(
        self, name: str, base: Any, positive: Any, negative: Any, n_parameters: int, sources: tuple[Any, ...] = ()
    ) -> None:
        self.name, self.base, self.positive, self.negative = name, base, positive, negative
        self.n_parameters, self.sources = n_parameters, sources

    @contextlib.contextmanager
    def at(self, coeff: float) -> Iterator[Any]:
        value = coefficient(coeff)
        yield self.positive if value > 0 else self.negative if value < 0 else self.base
