"""A method: a way to steer by a coefficient, trained or not. What a sweep over coefficients compares.

    with method.at(c) as model: logits of model on method.prompts(texts, c)

At c = 0 nothing is attached and the texts are as they are: every method is then the same model, to the bit.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mechsteer.errors import ConfigError
from mechsteer.steering.arguments import coefficient
from mechsteer.steering.interventions import Interventions, Steering, flatten, steer


class Method(abc.ABC):
    """`n_parameters`: how many numbers were trained, or found from data; None where there are no parameters at all."""

    name: str
    n_parameters: int | None

    @abc.abstractmethod
    def at(self, coeff: float) -> AbstractContextManager[Any]:
        """Inside, the model to run, steered by `coeff`; 0 is the base model to the bit, with nothing attached."""

    def prompts(self, texts: Sequence[str], coeff: float) -> list[str]:  # noqa: ARG002
        """The texts to run at `coeff`: as they are, except for methods that prompt."""
        return list(texts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.n_parameters} parameters)"


class Steered(Method):
    """`model` under a steering, whose own coefficients are multiplied by c. Raises ConfigError for c that is no number."""

    def __init__(self, name: str, model: Any, steering: Interventions) -> None:
        self.name, self.model = name, model
        self.steering = steering if isinstance(steering, Steering) else Steering(flatten(steering))
        self.n_parameters = sum(p.numel() for p in self.steering.parameters())

    @contextlib.contextmanager
    def at(self, coeff: float) -> Iterator[Any]:
        if not coefficient(coeff):
            yield self.model
            return
        with steer(self.model, self.steering.with_coeff(coeff * self.steering.coeff)):
            yield self.model


class Prompted(Method):
    """`model` with a prefix before every text: `positive` where c > 0, `negative` where c < 0, none at 0.

    Only the sign of c counts. Raises ConfigError for two prefixes that are the same.
    """

    n_parameters = None

    def __init__(self, name: str, model: Any, positive: str, negative: str) -> None:
        if positive == negative:
            raise ConfigError(f"both prefixes are {positive!r:.80}", "give a positive and a negative one")
        self.name, self.model, self.positive, self.negative = name, model, positive, negative

    @contextlib.contextmanager
    def at(self, coeff: float) -> Iterator[Any]:
        coefficient(coeff)
        yield self.model

    def prompts(self, texts: Sequence[str], coeff: float) -> list[str]:
        prefix = "" if not coefficient(coeff) else self.positive if coeff > 0 else self.negative
        return [prefix + text for text in texts]
