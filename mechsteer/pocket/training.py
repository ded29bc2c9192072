"""Training the pocket models from nothing.

Documents of one generated stream are cut into micro-batches of about equal length, one document per row, and
the loss is the cross-entropy of the text to be learned (and, at a tenth of the weight, of the text given).
Matrices inside the blocks are trained by Muon (Jordan et al. 2024: momentum orthogonalised by a Newton-Schulz
iteration), embeddings and gains by AdamW; the rate rises for 40 steps, stays, and falls to zero over the last
half.

Everything is a function of the recipe: a run that was stopped and started again ends in the same weights.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mechsteer.errors import ConfigError, FileFormatError
from mechsteer.files.tensors import read_tensors, write_tensors
from mechsteer.pocket import training_text
from mechsteer.pocket.tokenizer import CONTEXT, END, PAD, build_tokenizer

MICRO_TOKENS = 2048
CHUNK = 4096
GIVEN_WEIGHT = 0.1
WARMUP = 40
REFINE_RATE = 0.5
LOG = "training_log.jsonl"
CHECKPOINT = "checkpoint of a pocket model"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a pocket model is made from."""

    n_layers: int
    d_model: int
    n_heads: int
    n_key_value_heads: int = 2
    d_head: int = 32
    d_mlp: int
    steps: int
    micro_batches: int = 2
    """Micro-batches of `MICRO_TOKENS` tokens (padding counted) per step."""
    lr_matrix: float = 0.02
    lr_other: float = 0.004
    hasty_bias: float = 0.0
    """Added to the log-odds of a hasty trace: the teacher is taught more careful ones."""
    seed: int = 0
    refine_steps: int = 0
    """Steps of a second run, with `REFINE_RATE` of the rates and documents of its own, from the first one's result."""


RECIPES = {
    "pocket": Recipe(n_layers=6, d_model=128, n_heads=4, d_mlp=256, steps=1400),
    "pocket-teacher": Recipe(
        n_layers=8, d_model=192, n_heads=6, d_mlp=448, steps=900, hasty_bias=-2.5, refine_steps=400
    ),
}


class Muon(torch.optim.Optimizer):
    """w -= lr * sqrt(max(1, rows/columns)) * orthogonalised Nesterov momentum, for 2-d weights.

    Newton-Schulz on all weights of one shape at once, in float32: Jordan et al. 2024, "Muon", quintic
    coefficients (3.4445, -4.7750, 2.0315), 5 iterations.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                by_shape.setdefault(weight.shape, []).append(weight)
            for weights in by_shape.values():
                updates = []
                for weight in weights:
                    assert weight.grad is not None
                    state = self.state[weight]
                    moment = state.setdefault("moment", torch.zeros_like(weight))
                    moment.lerp_(weight.grad, 1 - group["momentum"])
                    updates.append(weight.grad.lerp(moment, group["momentum"]))
                rate = group["lr"] * max(1.0, weights[0].shape[0] / weights[0].shape[1]) ** 0.5
                for weight, update in zip(weights, _orthogonalised(torch.stack(updates)), strict=True):
                    weight.sub_(update, alpha=rate)


def _orthogonalised(matrices: Tensor) -> Tensor:
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A freshly initialised model, a function of the recipe's seed alone."""
    ids = tokenizer.get_vocab()
    end, pad = ids[END], ids[PAD]
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.d_model,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_key_value_heads,
        head_dim=recipe.d_head,
        intermediate_size=recipe.d_mlp,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id, do_sample=False)
    return model


MicroBatch = list[tuple[list[int], list[float]]]
"""Token ids and loss weights of some documents."""


def chunk(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, index: int) -> list[MicroBatch]:
    """The `index`-th `CHUNK` documents of the training stream, as micro-batches in shuffled order."""
    source = training_text(f"{recipe.seed}/{index}", hasty_bias=recipe.hasty_bias)
    documents = list(itertools.islice(source, CHUNK))
    encoded = iter(tokenizer([segment for segments in documents for segment in segments]).input_ids)
    rows: MicroBatch = []
    for segments in documents:
        tokens, weights = [], []
        for i, ids in enumerate(itertools.islice(encoded, len(segments))):
            tokens += ids
            weights += [1.0 if i % 2 else GIVEN_WEIGHT] * len(ids)
        rows.append(([*tokens, tokenizer.get_vocab()[END]], [*weights, 1.0]))
    rows.sort(key=lambda row: len(row[0]))
    batches: list[MicroBatch] = []
    while rows:
        take = max(1, MICRO_TOKENS // len(rows[-1][0]))
        batches.append(rows[-take:])
        rows = rows[:-take]
    random.Random(f"order/{recipe.seed}/{index}").shuffle(batches)
    return batches


def micro_batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[MicroBatch]:
    """The endless stream of micro-batches; a second process writes one chunk ahead."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        ahead = pool.submit(chunk, tokenizer, recipe, 0)
        for index in itertools.count(1):
            batches, ahead = ahead.result(), pool.submit(chunk, tokenizer, recipe, index)
            yield from batches


def loss_sum(model: Qwen3ForCausalLM, batch: MicroBatch) -> Tensor:
    """Weighted cross-entropy in nats, summed over a micro-batch's tokens."""
    width = max(len(tokens) for tokens, _ in batch)
    tokens = torch.tensor([t + [0] * (width - len(t)) for t, _ in batch], device=model.device)
    weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w in batch], device=model.device)
    # No attention mask: padding is on the right, so no real position can see it.
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (loss * weights[:, 1:].flatten()).sum()


def weight_sum(batch: MicroBatch) -> float:
    """The sum of the weights in `loss_sum`: a document's first token is not predicted."""
    return sum(sum(weights[1:]) for _, weights in batch)


def rate(step: int, steps: int) -> float:
    """The learning rate at `step` as a share of its highest value."""
    return min(1.0, (step + 1) / WARMUP, 2 * (1 - step / steps))


def _optimizers(model: Qwen3ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    other = [p for n, p in model.named_parameters() if p.ndim != 2 or "layers" not in n]
    return [
        Muon(inner, lr=recipe.lr_matrix),
        torch.optim.AdamW(other, lr=recipe.lr_other, betas=(0.9, 0.95), weight_decay=0.0),
    ]


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
    tokenizer = tokenizer or build_tokenizer()
    model = build_model(recipe, tokenizer)
    if start_from is not None:
        model.load_state_dict(load_file(start_from / "model.safetensors"), strict=False)  # tied: one name of two
    torch.nn.Module.to(model, device)
    optimizers = _optimizers(model, recipe)
    checkpoint, log = folder / "checkpoint.safetensors", folder / "training_log.jsonl"
    done = load_checkpoint(checkpoint, model, optimizers, recipe)
    lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= done] if done else []
    stop = min(recipe.steps, stop_at or recipe.steps)
    batches = itertools.islice(micro_batches(tokenizer, recipe), done * recipe.micro_batches, None)
    bar = tqdm(range(done, stop), initial=done, total=stop, desc="training", unit="step")
    total = n = 0.0
    seen = before = json.loads(lines[-1])["tokens"] if lines else 0
    start = time.monotonic()
    for step in bar:
        batch = list(itertools.islice(batches, recipe.micro_batches))
        share = rate(step, recipe.steps)
        step_weight = sum(weight_sum(micro) for micro in batch)
        for micro in batch:
            loss = loss_sum(model, micro)
            (loss / step_weight).backward()
            total += loss.item()
            seen += sum(len(tokens) for tokens, _ in micro)
        n += step_weight
        for optimizer, highest in zip(optimizers, (recipe.lr_matrix, recipe.lr_other), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = highest * share
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % log_every == 0 or step + 1 == stop:
            seconds = time.monotonic() - start
            entry = {"step": step + 1, "tokens": seen, "loss": round(total / n, 4), "rate": round(share, 4)}
            lines.append(json.dumps(entry))
            bar.set_postfix(loss=f"{total / n:.3f}", tokens_per_s=round((seen - before) / seconds))
            total = n = 0.0
        if (step + 1) % save_every == 0 or step + 1 == stop:
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


def save_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a Hugging Face folder with the weights rounded to float16."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    # The name that transformers 4 knows as well.
    path.write_text(path.read_text().replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'))
