"""Training the pocket models from nothing, as their recipes say (see `mechsteer.pocket.recipes`).

Everything is a function of the recipe: a run that was stopped and started again ends in the same weights.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from mechsteer.errors import ConfigError, FileFormatError
from mechsteer.files.tensors import read_tensors, write_tensors
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

REFINE_RATE = 0.5
CHECKPOINT = "checkpoint of a pocket model"


def save_checkpoint(
    path: Path,
    step: int,
    model: Qwen3ForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    recipe: Recipe,
) -> None:
    """Weights and optimizer states in one file, replaced in one move."""
    tensors = {f"model.{n}": p.detach() for n, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{name}": value for name, value in state.items()}
    write_tensors(path, tensors, {"step": step, "recipe": asdict(recipe)}, kind=CHECKPOINT, one_writer=True)


def load_checkpoint(
    path: Path, model: Qwen3ForCausalLM, optimizers: list[torch.optim.Optimizer], recipe: Recipe
) -> int:
    """Restore what `save_checkpoint` wrote; returns the number of steps done: 0 where there is no file.

    Raises:
        FileFormatError: the checkpoint is damaged, or was made by another recipe.
    """
    hint = "choose another folder: the training then starts from the beginning"
    saved = read_tensors(path, kind=CHECKPOINT, hint=hint)
    if saved is None:
        return 0
    tensors, header = saved
    if header["recipe"] != asdict(recipe):
        raise FileFormatError(f"{path} was made by another recipe.", hint)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[f"model.{name}"])
    for i, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, *at = key.split(".")
            if kind == "optimizer" and at[0] == str(i):
                states.setdefault(int(at[1]), {})[at[2]] = value
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return header["step"]


def train(
    recipe: Recipe,
    folder: Path,
    *,
    device: str | torch.device | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    log_every: int = 25,
    save_every: int = 100,
    stop_at: int | None = None,
    start_from: Path | None = None,
) -> Qwen3ForCausalLM:
    """Train a model by `recipe`, or go on where `folder` left off, and write it to `folder` in float16.

    Args:
        folder: gets the Hugging Face files, `training_log.jsonl`, and until the end `checkpoint.safetensors`.
        device: default is a GPU where there is one.
        stop_at: stop before this step, leaving the checkpoint (for tests and for training in pieces).
        start_from: folder of a model to begin with instead of random weights.
    """
    if recipe.steps < 1:
        raise ConfigError(f"steps must be at least 1, got {recipe.steps}.")
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer = tokenizer or build_tokenizer(text=recipe.text)
    model = build_model(recipe, tokenizer)
    if start_from is not None:
        model.load_state_dict(load_file(start_from / "model.safetensors"), strict=False)  # tied: one name of two
    torch.nn.Module.to(model, device)
    optimizers = optimizers_of(model, recipe)
    checkpoint, log = folder / "checkpoint.safetensors", folder / "training_log.jsonl"
    done = load_checkpoint(checkpoint, model, optimizers, recipe)
    lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= done] if done else []
    stop = min(recipe.steps, stop_at or recipe.steps)
    batches = itertools.islice(micro_batches(tokenizer, recipe), done * recipe.micro_batches, None)
    bar = tqdm(range(done, stop), initial=done, total=stop, desc="training", unit="step")
    n, total = 0.0, torch.zeros((), dtype=torch.float64, device=device)
    seen = before = json.loads(lines[-1])["tokens"] if lines else 0
    start = time.monotonic()
    for step in bar:
        batch = list(itertools.islice(batches, recipe.micro_batches))
        share, last = rate(step, recipe.steps), step + 1 == stop
        loss, weight = step_down(model, optimizers, batch, recipe, share)
        total, n, seen = total + loss, n + weight, seen + sum(len(tokens) for micro in batch for tokens, _ in micro)
        if (step + 1) % log_every == 0 or last:
            seconds = time.monotonic() - start
            entry = {"step": step + 1, "tokens": seen, "loss": round(float(total) / n, 4), "rate": round(share, 4)}
            lines.append(json.dumps(entry))
            bar.set_postfix(loss=f"{float(total) / n:.3f}", tokens_per_s=round((seen - before) / seconds))
            n, total = 0.0, torch.zeros_like(total)
        if (step + 1) % save_every == 0 or last:
            save_checkpoint(checkpoint, step + 1, model, optimizers, recipe)
            log.write_text("\n".join(lines) + "\n")
    if stop == recipe.steps:
        save_model(model, tokenizer, folder)
        checkpoint.unlink()
    return model


def train_whole(recipe: Recipe, folder: Path, *, device: str | torch.device | None = None) -> None:
    """What a recipe asks for from nothing: the first run, and the refining one where there is one."""
    if not recipe.refine_steps:
        train(recipe, folder, device=device)
        return
    first = folder / "first"
    if not (first / "model.safetensors").is_file():
        train(recipe, first, device=device)
    train(refinement(recipe), folder, device=device, start_from=first)
    log = [json.loads(line) for path in (first, folder) for line in (path / LOG).read_text().splitlines()]
    (folder / LOG).write_text("".join(json.dumps(entry) + "\n" for entry in log))
    shutil.rmtree(first)


def refinement(recipe: Recipe) -> Recipe:
    """The recipe of the second run: other documents (seed + 1), lower rates."""
    return replace(
        recipe,
        steps=recipe.refine_steps,
        lr_matrix=REFINE_RATE * recipe.lr_matrix,
        lr_other=REFINE_RATE * recipe.lr_other,
        seed=recipe.seed + 1,
    )
