"""Worked examples before a problem (Brown et al. 2020, arXiv 2005.14165): few-shot prompts, as text or as a conversation.

The examples are items of the training split with their `meta["worked"]`: a reference solution, or the right option. They
stand in front in one order for every problem, parted by an empty line; in a conversation they are earlier turns.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mechsteer.errors import ConfigError, DataError
from mechsteer.prompts import chat_prompts
from mechsteer.tasks.base import Item, Task
from mechsteer.tasks.splitting import require_disjoint

BETWEEN = "\n\n"


def few_shot(task: Task, shots: Task, n: int, seed: int = 0) -> Task:
    """The task with `n` worked examples, drawn from `shots` by `seed`, before every prompt. 0 leaves it as it is.

    Raises DataError where `shots` shares a group or a prompt with `task`, has fewer than `n` items, or one without a
    worked example; ConfigError for a negative `n`.
    """
    examples = examples_of(shots, n, seed)
    if not examples:
        return task
    require_disjoint({"the worked examples": replace(shots, items=examples), f"the problems of {task.name}": task})
    before = "".join(item.prompt + worked(item) + BETWEEN for item in examples)
    return replace(task, items=tuple(replace(item, prompt=before + item.prompt) for item in task.items))


def in_chat(task: Task, model: Any, *, examples: Sequence[Item] = (), instruction: str = "", **options: Any) -> Task:
    """The task with every prompt a conversation, as the chat template of the model's tokenizer writes it out.

    A message holds the question (`meta["question"]`; else the prompt) and `instruction` behind it; `examples` are
    earlier turns, answered by their `meta["worked"]`. `options` go to the template (`enable_thinking=False`).
    Raises DataError where examples and task overlap, and what `mechsteer.prompts.chat_prompts` raises.
    """
    if examples:
        require_disjoint(
            {"the worked examples": replace(task, items=tuple(examples)), f"the problems of {task.name}": task}
        )
    turns = [
        turn
        for item in examples
        for turn in (
            {"role": "user", "content": _asked(item, instruction)},
            {"role": "assistant", "content": worked(item).strip()},
        )
    ]
    told = [[*turns, {"role": "user", "content": _asked(item, instruction)}] for item in task.items]
    texts = chat_prompts(model, told, **options)
    return replace(task, items=tuple(replace(item, prompt=text) for item, text in zip(task.items, texts, strict=True)))


def examples_of(shots: Task, n: int, seed: int = 0) -> tuple[Item, ...]:
    """`n` items of `shots`, drawn by `seed`; fewer begin more. Raises as `few_shot`."""
    if n < 0:
        raise ConfigError(f"n is {n} worked examples", "give 0 or more")
    if len(shots.items) < n:
        raise DataError(f"{n} worked examples of {len(shots.items)} items", "ask for fewer, or give more items")
    order = list(range(len(shots.items)))
    random.Random(f"few_shot/{seed}").shuffle(order)
    examples = tuple(shots.items[i] for i in order[:n])
    for item in examples:
        worked(item)
    return examples


def worked(item: Item) -> str:
    """The text that a worked example has behind its prompt, with its leading space. Raises DataError for none."""
    text = item.meta.get("worked")
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"item {item.id!r} has no worked example",
            'give its reference solution in meta["worked"]; items of GSM8K, pocket and problems with options have one',
        )
    return text


def _asked(item: Item, instruction: str) -> str:
    question = str(item.meta.get("question", item.prompt)).strip()
    return f"{question}\n{instruction.strip()}" if instruction.strip() else question
