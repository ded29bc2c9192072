"""A scoring for sweeps and evaluations: does what a model writes on a prompt show a concept?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mechsteer.concepts.prompts import NEUTRAL
from mechsteer.concepts.reading import Concept
from mechsteer.evaluation import Arm, Keep, Scored, at_once
from mechsteer.models import tokenize
from mechsteer.steering import generate
from mechsteer.tasks import Item, Trace
from mechsteer.tokens import continuation_text


def neutral_items(prompts: Sequence[str] = NEUTRAL) -> list[Item]:
    """Items of neutral beginnings, for `ShowsConcept`."""
    return [Item(id=f"neutral/{i}", prompt=prompt, answer=None, group=str(i)) for i, prompt in enumerate(prompts)]


@dataclass(frozen=True, kw_only=True)
class ShowsConcept:
    """1 where a text shows the concept by its words or sentences, else 0; one text per item, drawn with `seed`."""

    concept: Concept
    max_new_tokens: int = 32
    temperature: float = 1.0
    seed: int = 0

    @property
    def metric(self) -> str:
        return "shows_concept"

    @property
    def unit(self) -> str:
        return f"share of texts that show {self.concept.name!r}"

    def prompt(self, model: Any, item: Item) -> list[int]:
        """Token ids of the item's prompt."""
        return tokenize(model, [item.prompt])[0]

    def score(
        self, model: Any, arm: Arm, items: Sequence[Item], *, keep: Keep = at_once, progress: bool = False
    ) -> Scored:
        """A text on every item under the arm. Kept: the new tokens, under the arm's name. Raises what `generate` raises."""
        prefix = arm.prefix_ids(model)
        prompts = [self.prompt(model, item) + prefix for item in items]

        def write() -> list[list[int]]:
            return generate(
                model,
                prompts,
                arm.steering,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=self.seed if self.temperature > 0 else None,
                progress=progress,
            ).tokens

        tokens = keep(arm.name, write)
        texts = ["" if model.tokenizer is None else continuation_text(model.tokenizer, ids) for ids in tokens]
        shown = [self.concept.shows(text) for text in texts]
        traces = tuple(
            Trace(item_id=item.id, group=item.group, prompt=item.prompt, text=text, correct=good, source=arm.name)
            for item, text, good in zip(items, texts, shown, strict=True)
        )
        return Scored(
            scores=np.array(shown),
            groups=tuple(item.group for item in items),
            traces=traces,
            tokens=tuple(tuple(ids) for ids in tokens),
            stopped=tuple(len(ids) < self.max_new_tokens for ids in tokens),
            seeds=(self.seed,) if self.temperature > 0 else (),
        )
