"""Steered generation beside plain `hf.generate` of the same model, interleaved in one run.

    python scripts/bench_generation.py [model folder ...]

A static vector at every layer on a raw bridge, greedy, one prompt, against Hugging Face's own generate with its
default attention. Without folders: the bundled `pocket`, and a random model of the shape of a 0.6B Qwen3.
Wanted: at most 1.0, never above 1.10.

Then pocket's own problems in one batch: rows that stop leave it, beside the same tokens with every row kept until
the last has stopped.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

import mechsteer as ms
from mechsteer.models import bundled_models

SHAPE_06B = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}


def random_folder(folder: Path) -> Path:
    """A random model of the 0.6B shape, saved with the pocket tokenizer so that a bridge boots."""
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**SHAPE_06B, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    for file in bundled_models()["pocket"].glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def ratio(source: Path, *, new_tokens: int, rounds: int, batch: int = 1) -> dict[str, float]:
    """Median, smallest and largest of steered / plain over interleaved rounds."""
    hf: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    model = ms.load_model(str(source))
    prompt = torch.randint(5, min(1000, model.cfg.d_vocab), (batch, 24), generator=torch.Generator().manual_seed(0))
    size = 1e-3 * hf.get_input_embeddings().weight.norm(dim=-1).mean()
    vectors = torch.randn(model.cfg.n_layers, model.cfg.d_model, generator=torch.Generator().manual_seed(1)) * size
    steering = [ms.Intervention(ms.adapters.Static(v), ms.Site(layer, "resid_post")) for layer, v in enumerate(vectors)]
    mask = torch.ones_like(prompt)

    def plain() -> None:
        out = hf.generate(
            prompt,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        assert out.shape[1] == 24 + new_tokens

    def steered() -> None:
        out = ms.generate(model, prompt.tolist(), steering, max_new_tokens=new_tokens, stop_tokens=())
        assert out.engine == "twin"
        assert len(out.tokens[0]) == new_tokens

    plain()
    steered()
    times = [(seconds(plain), seconds(steered)) for _ in range(rounds)]
    ratios = [b / a for a, b in times]
    return {
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "hf_ms_per_token": 1000 * statistics.median(a for a, _ in times) / new_tokens,
    }


def leaving(*, n_problems: int, rounds: int) -> dict[str, float]:
    """Median, smallest and largest of leaving / staying over interleaved rounds, for problems that end by themselves."""
    model = ms.load_model("pocket")
    prompts = [problem.prompt for problem in ms.pocket.problems(n_problems, seed=0)]
    vector = 0.1 * torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(1))
    iv = ms.Intervention(ms.adapters.Static(vector), ms.Site(3, "resid_post"))
    expected = ms.generate(model, prompts, iv, max_new_tokens=200).tokens
    longest = max(map(len, expected)) + 1  # and its stop token

    def leave() -> None:
        assert ms.generate(model, prompts, iv, max_new_tokens=longest).tokens == expected

    def stay() -> None:
        out = ms.generate(model, prompts, iv, max_new_tokens=longest, stop_tokens=())
        assert all(full[: len(row)] == row for full, row in zip(out.tokens, expected, strict=True))

    stay()
    ratios = [seconds(leave) / seconds(stay) for _ in range(rounds)]
    mean = statistics.mean(map(len, expected))
    return {
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "mean": mean,
        "longest": longest,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="steered generation / hf.generate")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--skip-large", action="store_true", help="leave out the 0.6B shape")
    arguments = parser.parse_args(argv)
    sources = [(str(f), f, 100, 9) for f in [bundled_models()["pocket"], *arguments.folders]]
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.skip_large:
            sources.append(("0.6B shape, random", random_folder(Path(folder)), 16, 5))
        print("steered generation (static vector, all layers, raw bridge) / hf.generate; wanted <= 1.0, at most 1.10")
        for name, source, new_tokens, rounds in sources:
            r = ratio(source, new_tokens=new_tokens, rounds=rounds)
            print(
                f"  {Path(name).name:24} {r['ratio']:.2f}  ({r['low']:.2f} to {r['high']:.2f})  hf {r['hf_ms_per_token']:.2f} ms per token"
            )
        print("rows that stop leave the batch / stay in it (pocket problems, one batch)")
        for n_problems in (64, 256):
            r = leaving(n_problems=n_problems, rounds=5)
            print(
                f"  {n_problems:24} {r['ratio']:.2f}  ({r['low']:.2f} to {r['high']:.2f})  "
                f"{r['mean']:.0f} tokens a row, the longest {r['longest']:.0f}"
            )


if __name__ == "__main__":
    main()
