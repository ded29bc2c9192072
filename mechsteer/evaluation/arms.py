"""Arms: what is compared. Each is a steering, or what is put behind the prompt, or both, and says what it is for.

The controls of a steering are built from what it really adds: its deltas are recorded, so that an adapter of any
kind has a no-op and random directions of equal norm at its own sites and over its own scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mechsteer.adapters import Adapter, Static
from mechsteer.directions import mean_difference, random_direction
from mechsteer.errors import ConfigError, DataError
from mechsteer.models import tokenize_continuation
from mechsteer.models.sites import Site
from mechsteer.runtime.batches import make_batches
from mechsteer.runtime.restart import Start, logits_from
from mechsteer.runtime.scopes import TokenScope
from mechsteer.shapes import Samples
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Intervention, Interventions, Steering, flatten, steer
from mechsteer.tokens import continuation_text

Role = Literal["base", "treated", "no_op", "prompt", "random", "control"]
MeanScore = Callable[[Interventions, str], float]  # of a steering, kept under a name


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One condition of an experiment.

    `prefix` (text, or token ids) is put behind the prompt, before what the model writes. `role` says what the arm
    is to the others: the "base" all are compared with, a "treated" one, a hook that adds nothing ("no_op"), another
    "prompt", a "random" direction, or any other "control".
    """

    name: str
    steering: Interventions = ()
    prefix: str | tuple[int, ...] = ""
    note: str = ""
    role: Role = "control"

    def prefix_ids(self, model: Any) -> list[int]:
        """Token ids of the prefix. Raises ConfigError for a text that has none."""
        if not self.prefix:
            return []
        ids = tokenize_continuation(model, self.prefix)
        if not ids:
            raise ConfigError(f"the prefix {self.prefix!r} of arm {self.name!r} has no tokens", "give a word")
        return ids

    def prefix_text(self, model: Any) -> str:
        """The prefix as text; empty where the model has no tokenizer."""
        if isinstance(self.prefix, str) or model.tokenizer is None:
            return self.prefix if isinstance(self.prefix, str) else ""
        return continuation_text(model.tokenizer, self.prefix)
