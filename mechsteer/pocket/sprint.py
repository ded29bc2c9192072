"""Training by the clock: a model of a recipe within so many minutes, on a GPU.

The loop of `mechsteer.pocket.training` without its checkpoints: where the recipe's steps would take longer than the time
given, the rate falls by the clock. The result then depends on the machine; the log tells how many steps were taken. It needs
torch and transformers alone.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from mechsteer.errors import ConfigError
from mechsteer.pocket.recipes import (
    LOG,
    Recipe,
    build_model,
    micro_batches,
    optimizers_of,
    rate,
    save_model,
    step_down,
)
from mechsteer.pocket.tokenizer import build_tokenizer


def sprint(
    recipe: Recipe,
    folder: Path,
    *,
    minutes: float,
    writers: int = 1,
    device: str | torch.device | None = None,
    log_every: int = 25,
) -> None:
    """Train by `recipe`, for about `minutes` at most, and write the model and its log to `folder`.

    `writers` processes write the text. Raises ConfigError for no time, no steps, no writers.
    """
    if not minutes > 0 or min(recipe.steps, writers) < 1:
        raise ConfigError(
            f"minutes={minutes}, steps={recipe.steps}, writers={writers}", "all of them have to be above 0"
        )
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer = build_tokenizer(text=recipe.text)
    model = build_model(recipe, tokenizer)
    torch.nn.Module.to(model, device)
    optimizers, batches = optimizers_of(model, recipe), micro_batches(tokenizer, recipe, writers)
    n, seen, total = 0.0, 0, torch.zeros((), dtype=torch.float64, device=device)
    lines = []
    first = list(itertools.islice(batches, recipe.micro_batches))  # the clock starts when there is text
    batches, start = itertools.chain(first, batches), time.monotonic()
    for step in (bar := tqdm(range(recipe.steps), desc="training", unit="step", mininterval=5)):
        at = by_the_clock(step, recipe.steps, (time.monotonic() - start) / 60 / minutes)
        share, last = rate(at, recipe.steps), at + 1 == recipe.steps
        batch = list(itertools.islice(batches, recipe.micro_batches))
        loss, weight = step_down(model, optimizers, batch, recipe, share)
        total, n, seen = total + loss, n + weight, seen + sum(len(tokens) for micro in batch for tokens, _ in micro)
        if (step + 1) % log_every == 0 or last:
            entry = {"step": step + 1, "tokens": seen, "loss": round(float(total) / n, 4), "rate": round(share, 4)}
            lines.append(json.dumps(entry))
            bar.set_postfix(loss=entry["loss"], tokens_per_s=round(seen / (time.monotonic() - start)))
            n, total = 0.0, torch.zeros_like(total)
        if last:
            break
    save_model(model, tokenizer, folder)
    (folder / LOG).write_text("\n".join(lines) + "\n")


def by_the_clock(step: int, steps: int, share: float) -> int:
    """The step that the schedule is at, where `share` of the time allowed is gone."""
    return min(max(step, int(share * steps)), steps - 1)
