"""Time of a training step restarted from cached residuals, as ratios of the same step run whole.

    python scripts/bench_training.py [--rounds 15] [--threads 2]

A random Llama (8 layers, d_model 512, vocabulary 4096) in one process; the variants take turns, and the median
of per-round ratios is printed. A step is forward, cross-entropy and backward to the vector; what is kept
between steps is computed before the clock starts, as it is once per batch in a training run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import mechsteer as ms
from mechsteer.runtime.batches import Batch, make_batches
from mechsteer.runtime.reach import n_untouched_blocks, n_untouched_columns
from mechsteer.runtime.restart import logits_from, start_from

N_LAYERS, D_MODEL, D_VOCAB = 8, 512, 4096
WANTED = {(0.5, "restart"): 0.80, (0.75, "restart"): 0.60, (0.5, "recipe"): 0.45}


def build() -> ms.models.HookedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=D_VOCAB,
        hidden_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=1408,
        max_position_embeddings=512,
    )
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({f"w{i}": i for i in range(D_VOCAB)}, unk_token="w3"))
    )
    words.add_special_tokens({"bos_token": "w0", "eos_token": "w1", "pad_token": "w2"})
    words.init_kwargs |= {"name_or_path": "random", "add_bos_token": True}
    return ms.load_model(LlamaForCausalLM(config), tokenizer=words)


def steps(model: ms.models.HookedModel, batch: Batch, depth: float) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """Name -> a step that returns (loss, gradient of the vector)."""
    vector = ms.adapters.Static(0.1 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1)))
    scope = ms.TokenScope.generated(include_last_prompt=True)
    iv = ms.Intervention(vector, ms.Site(depth, "resid_pre"), scope=scope)
    at = batch.predicts_target
    targets = batch.tokens.roll(-1, 1)[at]
    n_blocks, n_columns = n_untouched_blocks(model, [iv]), n_untouched_columns(model, [iv], batch)
    below, recipe = start_from(model, batch, n_blocks), start_from(model, batch, n_blocks, n_columns)

    def step(logits: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        with ms.steer(model, iv, prompt_lengths=batch.prompt_lengths):
            loss = torch.nn.functional.cross_entropy(logits(), targets)
        return loss, torch.autograd.grad(loss, vector.vector)[0]

    return {
        "whole": lambda: step(lambda: model(batch.tokens, use_cache=False)[at]),
        "restart": lambda: step(lambda: logits_from(model, batch, below, at, all_positions=True)),
        "restart, targets only": lambda: step(lambda: logits_from(model, batch, below, at)),
        "recipe": lambda: step(lambda: logits_from(model, batch, recipe, at)),
    }


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the ratios; returns them by "<depth> <variant>"."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--positions", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model = build()
    ids = torch.randint(0, D_VOCAB, (args.batch, args.positions), generator=torch.Generator().manual_seed(2)).tolist()
    half = args.positions // 2
    batch = make_batches(model, [(row[:half], row[half:]) for row in ids], args.batch)[0]
    results: dict[str, float] = {}
    print(
        f"{N_LAYERS} layers, d_model {D_MODEL}, vocabulary {D_VOCAB}, batch {args.batch} x {args.positions}, "
        f"{args.rounds} rounds, {args.threads} threads"
    )
    for depth in (0.5, 0.75):
        variants = steps(model, batch, depth)
        (_, whole), (_, restarted), (_, short) = (variants[k]() for k in ("whole", "restart", "recipe"))
        off = ((short - whole).norm() / whole.norm()).item()
        print(
            f"depth {depth:.0%}: gradients of restart equal to the bit: {torch.equal(whole, restarted)}; "
            f"of the full recipe, relative difference {off:.1e}"
        )
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(args.rounds):
            for name, step in variants.items():
                began = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - began)
        for name in list(variants)[1:]:
            ratio = statistics.median(t / w for t, w in zip(seconds[name], seconds["whole"], strict=True))
            results[f"{depth} {name}"] = ratio
            wanted = f"  (wanted: at most {WANTED[depth, name]:.2f})" if (depth, name) in WANTED else ""
            print(f"  {name:22} / whole  {ratio:.3f}{wanted}")
    return results


if __name__ == "__main__":
    main()
