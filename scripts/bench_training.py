"""Time of a training step restarted from cached residuals, as ratios of the same step run whole.

    python scripts/bench_training.py [--rounds 15] [--threads 2]

A random Llama (8 layers, d_model 512, vocabulary 4096) in one process; the variants take turns, and the median
of per-round ratios is printed. A step is forward, cross-entropy and backward to the vector; what is kept
between steps is computed before the clock starts, as it is once per batch in a training run. The last rows are the
same steps of an adapter that is conditioned on the prompt's summary, against its own whole step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import mechsteer as ms
from mechsteer.runtime.batches import Batch, make_batches
from mechsteer.runtime.context import Context
from mechsteer.runtime.reach import n_untouched_blocks, n_untouched_columns
from mechsteer.runtime.restart import logits_from, start_from
from mechsteer.runtime.summary import PromptSummary

N_LAYERS, D_MODEL, D_VOCAB = 8, 512, 4096
WANTED = {(0.5, "restart"): 0.80, (0.75, "restart"): 0.60, (0.5, "recipe"): 0.45}
DYNAMIC = "of a prompt-conditioned adapter"


class Conditioned(ms.adapters.Adapter):
    """delta = c · B tanh(A p), p the mean over the prompt."""

    linear_in_coeff, identity_at_init, per_prompt = True, False, True
    summary = PromptSummary()

    def __init__(self, d_hidden: int = 23) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.down = nn.Parameter(0.1 * torch.randn(D_MODEL, d_hidden, generator=generator))
        self.up = nn.Parameter(0.1 * torch.randn(d_hidden, D_MODEL, generator=generator))

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        if state is None:
            assert ctx.summary is not None
            state = (ctx.summary @ self.down).tanh() @ self.up
        return coeff * state[:, None].expand_as(acts), state

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Conditioned:  # noqa: ARG003
        return cls()


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


def steps(
    model: ms.models.HookedModel, batch: Batch, adapter: ms.adapters.Adapter, depth: float
) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """Name -> a step that returns (loss, gradient of the adapter)."""
    scope = ms.TokenScope.generated(include_last_prompt=True)
    iv = ms.Intervention(adapter, ms.Site(depth, "resid_pre"), scope=scope)
    at = batch.predicts_target
    targets = batch.next_tokens[at]
    n_blocks, n_columns = n_untouched_blocks(model, [iv]), n_untouched_columns(model, [iv], batch)
    below, recipe = start_from(model, batch, n_blocks), start_from(model, batch, n_blocks, n_columns, [iv])

    def step(logits: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        with ms.steer(model, iv, prompt_lengths=batch.prompt_lengths):
            loss = torch.nn.functional.cross_entropy(logits(), targets)
        return loss, torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(adapter.parameters()))])

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
    static = ms.adapters.Static(0.1 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1)))
    for depth in (0.5, 0.75):
        variants = steps(model, batch, static, depth)
        dynamic = steps(model, batch, Conditioned(), depth)
        for name, group in (("", variants), (f" {DYNAMIC}", dynamic)):
            (_, whole), (_, restarted), (_, short) = (group[k]() for k in ("whole", "restart", "recipe"))
            off = ((short - whole).norm() / whole.norm()).item()
            print(
                f"depth {depth:.0%}{name}: gradients of restart equal to the bit: {torch.equal(whole, restarted)}; "
                f"of the full recipe, relative difference {off:.1e}"
            )
        whole_of = {f"{name} {DYNAMIC}": f"whole {DYNAMIC}" for name in dynamic} | dict.fromkeys(variants, "whole")
        variants |= {f"{name} {DYNAMIC}": dynamic[name] for name in ("whole", "recipe")}
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(args.rounds):
            for name, step in variants.items():
                began = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - began)
        for name in variants:
            if name == whole_of[name]:
                continue
            ratio = statistics.median(t / w for t, w in zip(seconds[name], seconds[whole_of[name]], strict=True))
            results[f"{depth} {name}"] = ratio
            wanted = f"  (wanted: at most {WANTED[depth, name]:.2f})" if (depth, name) in WANTED else ""
            print(f"  {name:38} / whole  {ratio:.3f}{wanted}")
    return results


if __name__ == "__main__":
    main()
