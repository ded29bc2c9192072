"""The problems of a run: which they are, what the model is given of them, how its answers are scored."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import LogOdds, Scoring, Verified
from mechsteer.evaluation.likelihoods import continuation
from mechsteer.models import tokenize
from mechsteer.pocket import CAREFUL_PREFIX, HASTY_PREFIX
from mechsteer.prompts import read_rows
from mechsteer.studies.desk import Desk
from mechsteer.tasks import Item, Task, load_task

Split = Literal["train", "dev", "test"]
Metric = Literal["accuracy", "log_odds"]

STEP_BY_STEP = " Let's think step by step."


@functools.lru_cache(maxsize=16)
def is_ready_made(data: str) -> bool:
    """The data are traces that somebody else wrote, right and wrong: nothing is generated or steered."""
    path = Path(data)
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    first = read_rows(path)[0].data
    return isinstance(first, dict) and "ground_truth" in first


def metric_of(data: str, wanted: str) -> Metric:
    """How answers to some data are scored: as wanted, or as they allow."""
    if wanted in ("accuracy", "log_odds"):
        return wanted
    if is_ready_made(data):
        return "accuracy"
    task = load_task(data, 1, split="train")
    if task.has_options:
        raise ConfigError(
            f"{data} holds problems with options ({task.name}), which a study does not score",
            "score them with mechsteer.evaluation.MultipleChoice (load_task reads them), or study their prompts: "
            "metric=log_odds",
        )
    return "accuracy" if task.can_verify else "log_odds"


class Problems:
    """The problems behind a desk's settings."""

    def __init__(self, desk: Desk, metric: Metric) -> None:
        self.desk, self.model, self.settings, self.metric = desk, desk.model, desk.settings, metric
        self._tasks: dict[tuple[str, int], Task] = {}

    def task(self, split: Split, n: int) -> Task:
        """`n` problems of a split; where the file has fewer, all of them."""
        if (split, n) not in self._tasks:
            data, seed = self.settings.data, self.settings.seed
            try:
                self._tasks[split, n] = load_task(data, n, seed=seed, split=split)
            except DataError:
                self._tasks[split, n] = load_task(data, None, seed=seed, split=split)
        return self._tasks[split, n]

    def items(self, split: Split, n: int) -> Sequence[Item]:
        return self.task(split, n).items

    def scoring(self, task: Task) -> Scoring:
        """How answers are scored: by the task's verifier, greedily; or by the log-odds of two continuations."""
        s = self.settings
        if self.metric == "accuracy":
            return Verified(task=task, max_new_tokens=s.max_new_tokens, batch_size=s.batch_size)
        return LogOdds(
            positive=s.positive,
            negative=s.negative,
            suffix=s.suffix,
            prompt_tokens=s.prompt_tokens,
            batch_size=s.batch_size,
        )

    def prompt(self, item: Item) -> list[int]:
        """Token ids of an item's prompt; for log-odds its first tokens and the suffix."""
        if self.metric == "accuracy":
            return tokenize(self.model, [item.prompt])[0]
        s = self.settings
        return LogOdds(positive="", negative="", suffix=s.suffix, prompt_tokens=s.prompt_tokens).prompt(
            self.model, item
        )

    def prompts(self, split: Split, n: int) -> list[list[int]]:
        return [self.prompt(item) for item in self.items(split, n)]

    def ends(self) -> tuple[list[int], list[int]]:
        """Token ids of the continuation to promote and of the other. Raises ConfigError for an empty one."""
        return continuation(self.model, self.settings.positive), continuation(self.model, self.settings.negative)

    def careful_prefix(self) -> str:
        """What asks for care, put behind the prompt."""
        return CAREFUL_PREFIX if self.settings.data == "pocket" else STEP_BY_STEP

    def openings(self) -> dict[str, str]:
        """style -> words with which a text of it begins; empty where styles are not known."""
        return {"careful": CAREFUL_PREFIX, "hasty": HASTY_PREFIX} if self.settings.data == "pocket" else {}


def room(model: Any, prompts: Sequence[Sequence[int]], most: int) -> int:
    """New tokens that fit behind the longest prompt, at most `most`."""
    left = model.cfg.n_ctx - max(len(p) for p in prompts)
    if left < 1:
        raise ConfigError(
            f"a prompt fills the context of {model.cfg.n_ctx}", "leave it out, or use a model with a longer context"
        )
    return min(most, left)
