"""Make rewarded answers likelier: REINFORCE with a group baseline (Williams 1992; the group's mean as in arXiv 2402.03300).

    loss = − mean over sampled tokens of A · log p(token) + λ·KL(frozen || steered) + μ·mean‖delta‖²

A is the advantage of the answer that a token is of, p the steered model at the temperature that it was sampled with. An
answer's end counts as a token of its own: the probability of all stop tokens together. The KL counts the sampled tokens
too, beside what `mechsteer.training.objectives.harm` leaves alone.

Answers are sampled anew before every epoch, under the steering as it is then, so that the first step of an epoch follows
the gradient of the expected reward and later ones nearly so: many small epochs are better than few long ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, DataError
from mechsteer.files import digest_of
from mechsteer.models import tokenize
from mechsteer.runtime.batches import Pair
from mechsteer.steering.generation import default_stop_tokens
from mechsteer.steering.interventions import Intervention
from mechsteer.tasks import Item
from mechsteer.training.config import FitConfig
from mechsteer.training.objectives.base import Rows, Split, Terms
from mechsteer.training.objectives.harm import Harmless
from mechsteer.training.objectives.sampled import Answers, Drawing, Reward, derived_seed, sample_answers
from mechsteer.training.parts import Part, Steered, wide


@dataclass(frozen=True, eq=False, kw_only=True)
class _Drawn:
    """Answers of one split."""

    split: Split
    answers: Answers
    stop_tokens: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Reinforce(Harmless):
    """Rewarded answers to `items`, `n_samples` to each.

    `reward(item, text)`: a number, such as a task's own `verify`. `standardise` divides advantages by the standard
    deviation of their group. `dev`: other items; what stops training and picks the epoch is their mean reward, of as
    many samples drawn with the same random numbers after every epoch. `rows_at_once`: answers written side by side.
    `neutral`, `kl_weight` and `l2_weight` are `CrossEntropy`'s.

    Raises ConfigError for settings out of range; in `fit` DataError for items without a reward.
    """

    items: Sequence[Item]
    reward: Reward
    _: KW_ONLY
    dev: Sequence[Item] = ()
    neutral: Sequence[str | Sequence[int]] = ()
    kl_weight: float = 0.1
    l2_weight: float = 1e-4
    n_samples: int = 8
    max_new_tokens: int = 64
    temperature: float = 1.0
    standardise: bool = False
    rows_at_once: int = 256
    _drawn: _Drawn | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.check_weights()
        for name, least in (("n_samples", 2), ("max_new_tokens", 1), ("rows_at_once", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"pass at least {least}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"temperature is {self.temperature}", "answers are sampled: pass a number above 0")

    @property
    def weights(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        harm = {"kl": self.kl_weight, "square_norm": self.l2_weight}
        if (
            self._drawn is not None and self._drawn.split == "dev"
        ):  # the estimator's value says nothing; the reward does
            return {"reinforce": 0.0, "reward": -1.0, **harm}
        return {"reinforce": 1.0, "reward": 0.0, **harm}

    def identity(self) -> dict[str, Any]:
        asked = [[item.id, item.prompt, item.answer] for item in (*self.items, *self.dev)]
        names = ("n_samples", "max_new_tokens", "temperature", "standardise")
        more = {name: getattr(self, name) for name in names}
        return {**super().identity(), **more, "items": digest_of([asked])}

    def rows(self, model: Any) -> Rows:
        if not self.items:
            raise DataError("there are no items", "pass at least one problem")
        neutral = self.neutral_rows(model)
        if self._drawn is not None:
            rows = self._drawn.answers.rows
            train, dev = (rows, ()) if self._drawn.split == "train" else ((), rows)
            return Rows(train=train, dev=dev, neutral=neutral)
        return Rows(train=self._unanswered(model, "train"), dev=self._unanswered(model, "dev"), neutral=neutral)

    def renewed(
        self, model: Any, interventions: Sequence[Intervention], config: FitConfig, *, split: Split, epoch: int
    ) -> Reinforce:
        items = self._items(split)
        number = epoch if split == "train" else 0  # the same numbers in every look at dev: less noise between them
        how = Drawing(
            n_samples=self.n_samples,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            rows_at_once=self.rows_at_once,
        )
        answers = sample_answers(
            model,
            tokenize(model, [item.prompt for item in items]),
            items,
            interventions,
            self.reward,
            how,
            seed=derived_seed(config.seed, split, number),
        )
        drawn = _Drawn(split=split, answers=answers, stop_tokens=default_stop_tokens(model))
        return replace(self, _drawn=drawn)

    def terms(self, steered: Steered) -> Terms:
        batch, drawn = steered.part.batch, self._drawn
        at = batch.predicts_target
        if not bool(at.any()):  # neutral text
            return self.harm(steered)
        assert drawn is not None, "the objective is renewed before it is asked"
        log_p, tokens = (wide(steered.logits_at(at)) / self.temperature).log_softmax(-1), batch.next_tokens[at]
        chosen = log_p.gather(1, tokens[:, None])[:, 0]
        if drawn.stop_tokens:
            stops = torch.tensor(drawn.stop_tokens, device=tokens.device)
            chosen = torch.where(torch.isin(tokens, stops), log_p[:, stops].logsumexp(-1), chosen)
        advantages = drawn.answers.advantages(standardise=self.standardise).to(chosen)
        rewards, rows = drawn.answers.rewards.flatten().to(chosen.device)[batch.rows], at.nonzero()[:, 0]
        total, n = steered.term("reward", rewards, torch.arange(len(rewards), device=rewards.device))
        return {
            "reinforce": steered.term("reinforce", -(advantages[batch.rows][rows] * chosen), rows),
            "reward": (float(total), n),
            **self.harm(steered, targets=True),
        }

    def samples_of(self, part: Part) -> Tensor:
        """A problem with all that was answered to it."""
        rows = part.batch.rows
        return rows // self.n_samples if bool(part.batch.is_target.any()) else rows

    def _items(self, split: Split) -> Sequence[Item]:
        return self.items if split == "train" else self.dev

    def _unanswered(self, model: Any, split: Split) -> list[Pair]:
        """As many rows as there will be: what the data hash and the number of steps are taken of."""
        items = self._items(split)
        prompts = tokenize(model, [item.prompt for item in items]) if items else []
        return [(prompt, []) for prompt in prompts for _ in range(self.n_samples)]
