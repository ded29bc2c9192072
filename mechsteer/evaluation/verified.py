"""Verified: a model writes on problems, greedily or by sampling, and a task's verifier says what is right.

Where the task has a strict form of an answer as well (GSM8K's "#### 72"), both are kept: `scores` by the verifier, which
reads an answer in any form, `strict` by the form alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation.arms import Arm
from mechsteer.evaluation.scoring import Keep, Scored, at_once
from mechsteer.models import tokenize
from mechsteer.steering.generation import generate
from mechsteer.tasks import Item, Task, require_answers
from mechsteer.tokens import continuation_text


@dataclass(frozen=True, kw_only=True)
class Verified:
    """Right or wrong, by `task`'s verifier. Frozen, as every scoring.

    Greedy where `temperature` is 0. Above it every item is answered once per seed of `seeds`; a row's draws depend
    on its seed and its number alone. At most `max_new_tokens` are written, fewer where a prompt leaves less room.
    `batch_size` rows run at once; None: up to 256, as many as 4 GiB of keys and values allow (at least 16). Rows that
    stop leave their batch, so a large one costs little; tokens depend on it by rounding alone.
    """

    task: Task
    max_new_tokens: int = 200
    temperature: float = 0.0
    seeds: tuple[int, ...] = ()
    batch_size: int | None = None
    stop_tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.task.can_verify:
            raise ConfigError(f"the answers to {self.task.name!r} cannot be verified", "score them by LogOdds")
        if bool(self.seeds) != (self.temperature > 0):
            raise ConfigError(
                f"temperature={self.temperature} with seeds={self.seeds}",
                "greedy decoding (temperature 0) takes no seeds, sampling at least one",
            )

    @property
    def metric(self) -> str:
        return "accuracy"

    @property
    def unit(self) -> str:
        return "share of problems solved"

    def prompt(self, model: Any, item: Item) -> list[int]:
        """Token ids of the item's prompt."""
        return tokenize(model, [item.prompt])[0]

    def score(
        self, model: Any, arm: Arm, items: Sequence[Item], *, keep: Keep = at_once, progress: bool = False
    ) -> Scored:
        """Texts on every item under the arm, judged. Kept: the new tokens, under the arm's name (and the seed).

        Raises DataError for items without an answer, and for prompts that fill the context.
        """
        require_answers(items, self.task.name)
        tail = arm.prefix_ids(model)
        prompts = [self.prompt(model, item) + tail for item in items]
        runs = [self._run(model, arm, prompts, seed, keep, progress) for seed in self.seeds or (None,)]
        tokens = [tuple(ids) for run in runs for ids in run]
        texts = ["" if model.tokenizer is None else continuation_text(model.tokenizer, ids) for ids in tokens]
        prefix, n = arm.prefix_text(model), len(items)
        traces = tuple(
            self.task.trace(items[i % n], prefix + text, source=arm.name, sample=i // n) for i, text in enumerate(texts)
        )
        most = room(model, prompts, self.max_new_tokens)
        strict = [trace.strict_correct for trace in traces]
        return Scored(
            scores=np.array([bool(trace.correct) for trace in traces]),
            groups=tuple(trace.group for trace in traces),
            traces=traces,
            tokens=tuple(tokens),
            stopped=tuple(len(ids) < most for ids in tokens),
            seeds=self.seeds,
            strict=None if None in strict else np.array(strict, dtype=bool),
        )

    def _run(
        self, model: Any, arm: Arm, prompts: list[list[int]], seed: int | None, keep: Keep, progress: bool
    ) -> list[list[int]]:
        most = room(model, prompts, self.max_new_tokens)

        def write() -> list[list[int]]:
            out = generate(
                model,
                prompts,
                arm.steering,
                max_new_tokens=most,
                temperature=self.temperature,
                generator=None if seed is None else torch.Generator().manual_seed(seed),
                stop_tokens=self.stop_tokens,
                batch_size=self.batch_size or rows_at_once(model, max(map(len, prompts)) + most),
                progress=progress,
            )
            return out.tokens

        return keep(arm.name if seed is None else f"{arm.name}, seed {seed}", write)


def rows_at_once(model: Any, n_tokens: int, *, budget_bytes: int = 4 << 30, most: int = 256, least: int = 16) -> int:
    """How many rows of `n_tokens` have keys and values within the budget; between `least` and `most`."""
    cfg = model.cfg
    n_heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    row_bytes = 2 * cfg.n_layers * n_heads * cfg.d_head * n_tokens * cfg.dtype.itemsize
    return max(least, min(most, budget_bytes // row_bytes))


def room(model: Any, prompts: Sequence[Sequence[int]], most: int) -> int:
    """New tokens that fit behind the longest prompt, at most `most`. Raises DataError where none do."""
    left = model.cfg.n_ctx - max(len(p) for p in prompts)
    if left < 1:
        raise DataError(
            f"a prompt fills the context of {model.cfg.n_ctx}", "leave it out, or use a model with a longer context"
        )
    return min(most, left)
