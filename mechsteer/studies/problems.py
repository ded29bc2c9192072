"""The problems of a run: which they are, what the model is given of them, how its answers are scored."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import LogOdds, MultipleChoice, Scoring, Verified
from mechsteer.evaluation.likelihoods import Normalise, continuation, options_of
from mechsteer.models import tokenize, tokenize_continuation
from mechsteer.pocket import CAREFUL_PREFIX, HASTY_PREFIX
from mechsteer.prompts import Fit, fitted, read_rows
from mechsteer.studies.desk import Desk
from mechsteer.tasks import Item, Task, few_shot, in_chat, load_task, require_disjoint

Split = Literal["train", "dev", "test"]
Metric = Literal["accuracy", "multiple_choice", "log_odds"]

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
    """How answers to some data are scored: as wanted, or as they allow. Raises ConfigError where they do not allow it."""
    if wanted == "log_odds":
        return wanted
    if is_ready_made(data):
        return "accuracy"
    task = load_task(data, 1, split="train")
    if task.has_options and wanted == "accuracy":
        raise ConfigError(
            f"metric is accuracy, and {data} holds problems with options ({task.name}), which are chosen and not written",
            "give metric=multiple_choice, or study their prompts alone with metric=log_odds",
        )
    if wanted == "multiple_choice" and not task.has_options:
        raise ConfigError(
            f"metric is multiple_choice, and the problems of {data} have no options",
            "give data with options (HellaSwag, ARC, TruthfulQA), or metric=auto",
        )
    if wanted == "accuracy" and not task.can_verify:
        raise ConfigError(f"metric is accuracy, and answers to {data} cannot be verified", "give metric=log_odds")
    return "multiple_choice" if task.has_options else "accuracy" if task.can_verify else "log_odds"


class Problems:
    """The problems behind a desk's settings."""

    def __init__(self, desk: Desk, metric: Metric) -> None:
        self.desk, self.model, self.settings, self.metric = desk, desk.model, desk.settings, metric
        self.left_out = self.cut = 0  # problems that are too long; texts of which a part is used
        self._tasks: dict[tuple[str, int], Task] = {}

    def task(self, split: Split, n: int) -> Task:
        """`n` problems of a split as the model is given them; where the file has fewer, all of them."""
        if (split, n) not in self._tasks:
            self._tasks[split, n] = self.fitting(self.prompted(self.drawn(split, n)), split)
        return self._tasks[split, n]

    def drawn(self, split: Split, n: int) -> Task:
        """The same as they are in the data. The first training problems are the worked examples, and left out here."""
        first = self.settings.few_shot if split == "train" else 0
        task = self.loaded(split, n + first)
        if len(task.items) <= first:
            raise DataError(
                f"the train split of {self.settings.data} has {len(task.items)} problems, {first} of them worked examples",
                "give fewer (few_shot), or more data",
            )
        return replace(task, items=task.items[first:])

    def loaded(self, split: Split, n: int | None) -> Task:
        """`n` problems of a split (all of a file that has fewer), of those that `problems` names."""
        s = self.settings
        named = {"steps": s.problems.test_steps, "containing": s.problems.left_out_operation}
        if split != "test":
            named = {"steps": s.problems.train_steps, "without": s.problems.left_out_operation}
        try:
            return load_task(s.data, n, seed=s.seed, split=split, **named)
        except DataError:
            if s.data == "pocket":
                raise
            return load_task(s.data, None, seed=s.seed, split=split, **named)

    def prompted(self, task: Task) -> Task:
        """The task behind worked examples, and as a conversation, where the settings ask for it."""
        s = self.settings
        if self.metric == "log_odds":
            return task
        examples = self.loaded("train", s.few_shot).items[: s.few_shot] if s.few_shot else ()
        if s.chat:
            return in_chat(task, self.model, examples=examples, instruction=s.instruction, **s.chat_options)
        return few_shot(task, replace(task, items=tuple(examples)), len(examples), s.seed)

    def require_disjoint(self) -> None:
        """Raises DataError where splits of a file overlap, by group or prompt, drawn or not; generated ones do not."""
        if self.settings.data != "pocket":
            require_disjoint({f"the {split} split": self.loaded(split, None) for split in ("train", "dev", "test")})

    def fitting(self, task: Task, split: Split) -> Task:
        """The task with every problem in the model's context; for log-odds a text is cut to its first tokens anyway.

        Raises DataError where problems are too long and `truncate` is null.
        """
        how = self.settings.truncate
        if self.metric == "log_odds":
            return self._cut(task)
        room = 1 if how is None else min(self.settings.max_new_tokens, self.model.cfg.n_ctx // 2)
        if self.metric == "multiple_choice":
            room = max(len(continuation(self.model, text)) for item in task.items for text in options_of(item))
        try:
            texts = fitted([item.prompt for item in task.items], self.model, cast("Fit | None", how), room=room)
        except DataError as error:
            raise DataError(f"{self.settings.data}, {split} split: {error.message}", error.hint) from error
        self.left_out += sum(text is None for text in texts)
        self.cut += sum(text not in (None, item.prompt) for item, text in zip(task.items, texts, strict=True))
        items = [replace(item, prompt=text) for item, text in zip(task.items, texts, strict=True) if text is not None]
        if not items:
            raise DataError(
                f"no problem of the {split} split of {self.settings.data} fits the context of {self.model.cfg.n_ctx}",
                "truncate=left keeps their end, truncate=right their beginning; or use a model with a longer context",
            )
        return replace(task, items=tuple(items))

    def _cut(self, task: Task) -> Task:
        """The task, whose texts the prompts cut; raises ConfigError where what is left of one is still too long."""
        s = self.settings
        ends = max(map(len, self.ends())) if "positive" in self.desk.keys else 1  # sampling needs room for a token
        sizes = [int(self.model.to_tokens(item.prompt, truncate=False).shape[-1]) for item in task.items]
        self.cut += sum(size > s.prompt_tokens for size in sizes)
        most = self.model.cfg.n_ctx - ends - len(tokenize_continuation(self.model, s.suffix))
        if min(max(sizes), s.prompt_tokens) > most:
            raise ConfigError(
                f"prompt_tokens is {s.prompt_tokens}, which with the suffix and a continuation is more than the "
                f"context of {self.model.cfg.n_ctx}",
                f"give at most {most}: of longer texts the first prompt_tokens are used",
            )
        return task

    def items(self, split: Split, n: int) -> Sequence[Item]:
        return self.task(split, n).items

    def scoring(self, task: Task) -> Scoring:
        """How answers are scored: by the task's verifier, greedily; by the likelihoods of options, or of two continuations."""
        s = self.settings
        if self.metric == "multiple_choice":
            return MultipleChoice(normalise=cast("Normalise", s.normalise), batch_size=s.batch_size)
        if self.metric == "accuracy":
            return Verified(task=task, max_new_tokens=s.max_new_tokens, batch_size=s.batch_size)
        return LogOdds(
            positive=s.positive,
            negative=s.negative,
            suffix=s.suffix,
            prompt_tokens=s.prompt_tokens,
            batch_size=s.batch_size,
        )

    def sampled(self, task: Task) -> Verified:
        """Answers sampled with several decoding seeds."""
        s, how = self.settings, self.settings.evaluate
        seeds = tuple(self.desk.seed("sampled", i) for i in range(how.n_sampled))
        return Verified(task=task, max_new_tokens=s.max_new_tokens, temperature=how.temperature, seeds=seeds)

    def prompt(self, item: Item) -> list[int]:
        """Token ids of an item's prompt; for log-odds its first tokens and the suffix."""
        if self.metric != "log_odds":
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
