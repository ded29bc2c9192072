"""What the bundled models are made from: sizes, text, rates; and the pieces that a training loop is made of.

Documents of one generated stream are cut into micro-batches of about equal length, one document per row, and
the loss is the cross-entropy of the text to be learned (and, at a tenth of the weight, of the text given).
Matrices inside the blocks are trained by Muon (Jordan et al. 2024: momentum orthogonalised by a Newton-Schulz
iteration), embeddings and gains by AdamW; the rate rises for 40 steps, stays, and falls to zero over the last
half.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mechsteer.pocket import TextName, texts
from mechsteer.pocket.muon import Muon
from mechsteer.pocket.tokenizer import CONTEXT, END, PAD

MICRO_TOKENS = 2048
CHUNK = 4096
GIVEN_WEIGHT = 0.1
WARMUP = 40
LOG = "training_log.jsonl"


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
    """Micro-batches per step."""
    micro_size: int = 1
    """How many times `MICRO_TOKENS` tokens (padding counted) are in a micro-batch."""
    lr_matrix: float = 0.02
    lr_other: float = 0.004
    hasty_bias: float = 0.0
    """Added to the log-odds of a hasty trace: the teacher is taught more careful ones."""
    text: TextName = "problems"
    seed: int = 0
    refine_steps: int = 0
    """Steps of a second run, with `REFINE_RATE` of the rates and documents of its own, from the first one's result."""


RECIPES = {
    "pocket": Recipe(n_layers=6, d_model=128, n_heads=4, d_mlp=256, steps=1400),
    "pocket-teacher": Recipe(
        n_layers=8, d_model=192, n_heads=6, d_mlp=448, steps=900, hasty_bias=-2.5, refine_steps=400
    ),
    "voices": Recipe(
        n_layers=8, d_model=192, n_heads=6, d_mlp=320, steps=3000, micro_batches=4, micro_size=8, text="voices"
    ),
}


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
    source = texts(recipe.text, f"{recipe.seed}/{index}", hasty_bias=recipe.hasty_bias)
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
        take = max(1, recipe.micro_size * MICRO_TOKENS // len(rows[-1][0]))
        batches.append(rows[-take:])
        rows = rows[:-take]
    random.Random(f"order/{recipe.seed}/{index}").shuffle(batches)
    return batches


def micro_batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, writers: int = 1) -> Iterator[MicroBatch]:
    """The endless stream of micro-batches; `writers` other processes write as many chunks ahead."""
    with ProcessPoolExecutor(writers, mp_context=get_context("spawn")) as pool:
        ahead = deque(pool.submit(chunk, tokenizer, recipe, index) for index in range(writers))
        for index in itertools.count(writers):
            batches = ahead.popleft().result()
            ahead.append(pool.submit(chunk, tokenizer, recipe, index))
            yield from batches


def loss_sum(model: Qwen3ForCausalLM, batch: MicroBatch) -> Tensor:
    """Weighted cross-entropy in nats, summed over a micro-batch's tokens; on a GPU the products are in bfloat16."""
    width = max(len(tokens) for tokens, _ in batch)
    tokens = torch.tensor([t + [0] * (width - len(t)) for t, _ in batch], device=model.device)
    weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w in batch], device=model.device)
    # No attention mask: padding is on the right, so no real position can see it.
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    loss = cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (loss * weights[:, 1:].flatten()).sum()


def weight_sum(batch: MicroBatch) -> float:
    """The sum of the weights in `loss_sum`: a document's first token is not predicted."""
    return sum(sum(weights[1:]) for _, weights in batch)


def rate(step: int, steps: int) -> float:
    """The learning rate at `step` as a share of its highest value."""
    return min(1.0, (step + 1) / WARMUP, 2 * (1 - step / steps))


def optimizers_of(model: Qwen3ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    other = [p for n, p in model.named_parameters() if p.ndim != 2 or "layers" not in n]
    return [
        Muon(inner, lr=recipe.lr_matrix),
        torch.optim.AdamW(other, lr=recipe.lr_other, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def step_down(
    model: Qwen3ForCausalLM,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Sequence[MicroBatch],
    recipe: Recipe,
    share: float,
) -> tuple[Tensor, float]:
    """One step at a `share` of the highest rates; (loss summed over the tokens, their weight)."""
    weight = sum(weight_sum(micro) for micro in batch)
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    for micro in batch:
        loss = loss_sum(model, micro)
        (loss / weight).backward()
        total += loss.detach()
    for optimizer, highest in zip(optimizers, (recipe.lr_matrix, recipe.lr_other), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = highest * share
        optimizer.step()
        optimizer.zero_grad()
    return total, weight


def save_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a Hugging Face folder with the weights rounded to float16."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    # The name that transformers 4 knows as well.
    path.write_text(path.read_text().replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'))
