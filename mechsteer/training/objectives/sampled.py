"""Answers that the steering as it stands samples, and what each is worth beside the others on the same problem.

    advantage = reward − mean reward of the group,   or that over the group's standard deviation

A group are the answers to one problem. The mean holds the answer's own reward too, which shrinks the expected gradient
by the factor 1 − 1/G and turns it nowhere (Shao et al. 2024, arXiv 2402.03300, take the standardised form).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, DataError
from mechsteer.runtime.batches import Pair
from mechsteer.steering.generation import default_stop_tokens, generate
from mechsteer.steering.interventions import Interventions
from mechsteer.tasks import Item

Reward = Callable[[Item, str], "float | None"]
"""reward(item, text): what a text written after the item's prompt is worth, such as `Task.verify`: right 1, wrong 0"""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How answers are sampled."""

    n_samples: int  # per problem: the size of a group
    max_new_tokens: int
    temperature: float
    rows_at_once: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """`n_samples` answers per problem, one after the other: prompts with what was written, and its rewards."""

    rows: Sequence[Pair]  # an answer that ended by itself has the first stop token at its end
    rewards: Tensor  # [n_items n_samples] float64

    def advantages(self, *, standardise: bool) -> Tensor:
        """[n_items · n_samples] float64; 0 throughout a group of equal rewards."""
        centred = self.rewards - self.rewards.mean(1, keepdim=True)
        if standardise:
            spread = self.rewards.std(1, keepdim=True, correction=0)
            centred = torch.where(spread > 0, centred / spread.clamp(min=torch.finfo(spread.dtype).tiny), 0.0)
        return centred.flatten()


def sample_answers(
    model: Any,
    prompts: Sequence[list[int]],
    items: Sequence[Item],
    steering: Interventions,
    reward: Reward,
    how: Drawing,
    *,
    seed: int,
) -> Answers:
    """Sample under the steering and reward. The draws of an answer depend on the seed, its problem's place and its own.

    Raises ConfigError for a model without a tokenizer (there is no text to judge), DataError for a reward that is no
    finite number, and what `generate` raises.
    """
    if model.tokenizer is None:
        raise ConfigError("the model has no tokenizer, and rewards judge texts", "load it with its tokenizer")
    each = [(prompt, item) for prompt, item in zip(prompts, items, strict=True) for _ in range(how.n_samples)]
    written = generate(
        model,
        [prompt for prompt, _ in each],
        steering,
        max_new_tokens=how.max_new_tokens,
        temperature=how.temperature,
        seed=seed,
        batch_size=how.rows_at_once,
    )
    end = list(default_stop_tokens(model)[:1])
    rows = [
        (prompt, new + end if stopped else new)
        for (prompt, _), new, stopped in zip(each, written.tokens, written.stopped, strict=True)
    ]
    rewards = [_value(reward, item, text) for (_, item), text in zip(each, written.texts, strict=True)]
    return Answers(rows=rows, rewards=torch.tensor(rewards, dtype=torch.float64).reshape(len(items), how.n_samples))


def _value(reward: Reward, item: Item, text: str) -> float:
    value = reward(item, text)
    if value is None or not math.isfinite(value):
        raise DataError(
            f"the reward of a text on item {item.id!r} is {value}",
            "reward only items whose answers can be verified, by finite numbers",
        )
    return float(value)


def derived_seed(*names: object) -> int:
    """A seed of 63 bits for one purpose.

    >>> derived_seed(0, "train", 1) == derived_seed(0, "train", 1) != derived_seed(0, "train", 2)
    True
    """
    return int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:8], "big") >> 1
