"""The same steering on a GPU: does it agree with the processor, and how fast does it write?

    python scripts/bench_gpu.py [--new-tokens 128 --rounds 3]

Pocket on the GPU beside pocket on the processor: logits, greedy texts and a training, steered. Then a random model of the
shape of a 0.6B Qwen3: bfloat16 beside float32, steered and unsteered (wanted: relative error of the logits at most 3e-2,
of what the steering changes in them 1e-1), and tokens per second of a steered generation beside `hf.generate` with
its default cache, and with a static cache and compiled decoding. Without a GPU it says so and ends with code 2.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_generation import random_folder
from transformers import AutoModelForCausalLM

import mechsteer as ms
from mechsteer.models import backend_of
from mechsteer.runtime.batches import Sample
from mechsteer.steering.interventions import writing
from mechsteer.training import FitConfig, fit

LOGITS, EFFECT = 3e-2, 1e-1


def seconds(call: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def vector_at_half_depth(model: Any, size: float) -> ms.Intervention:
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(1))
    adapter = ms.adapters.Static(size * vector).to(model.cfg.device)
    return ms.Intervention(adapter, ms.Site(model.cfg.n_layers // 2))


@torch.no_grad()
def logits(model: Any, tokens: torch.Tensor, *steering: ms.Intervention) -> torch.Tensor:
    with ms.steer(model, steering):
        return (
            backend_of(model).runner.forward(tokens.to(model.cfg.device), None, None, use_cache=False)[0].float().cpu()
        )


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def trained(model: Any) -> tuple[torch.Tensor, float]:
    rows = ms.pocket.problems(64, seed=0)
    rng = random.Random(0)
    samples = [Sample(row.prompt, ms.pocket.traces(row, rng, style="careful")) for row in rows]
    iv = ms.Intervention(ms.adapters.Static(torch.zeros(model.cfg.d_model, device=model.cfg.device)), ms.Site(3))
    before = logits(model, torch.arange(5, 29)[None])
    result = fit(model, iv, samples, FitConfig(lr=0.05, epochs=3, seed=0), progress=False)
    assert torch.equal(before, logits(model, torch.arange(5, 29)[None])), "no hook is left on"
    (fitted,) = writing(result.steering)
    adapter: Any = fitted.adapter
    train = result.history[-1].train
    assert train is not None
    return adapter.vector.detach().float().cpu(), train["loss"]


def pocket() -> None:
    """The bundled model on both."""
    models = ms.load_model("pocket"), ms.load_model("pocket", device="cuda")
    ids = torch.randint(5, 400, (8, 64), generator=torch.Generator().manual_seed(0))
    steerings = [vector_at_half_depth(model, 0.3) for model in models]
    base = [logits(model, ids) for model in models]
    steered = [logits(model, ids, iv) for model, iv in zip(models, steerings, strict=True)]
    print(
        f"  logits, float32: relative error {error(base[1], base[0]):.1e}; steered {error(steered[1], steered[0]):.1e}"
    )
    prompts = [problem.prompt for problem in ms.pocket.problems(100, seed=0)]
    texts = [
        ms.generate(model, prompts, iv, max_new_tokens=60).tokens for model, iv in zip(models, steerings, strict=True)
    ]
    print(f"  greedy steered texts equal: {sum(a == b for a, b in zip(*texts, strict=True))} of {len(prompts)}")
    (a, loss_a), (b, loss_b) = map(trained, models)
    print(f"  trained vector: relative error {error(b, a):.1e}, loss {loss_a:.4f} and {loss_b:.4f}")


def parity(folder: Path) -> None:
    """bfloat16 beside float32, of the effect too."""
    found: dict[str, list[torch.Tensor]] = {}
    for dtype in ("float32", "bfloat16"):
        model = ms.load_model(str(folder), device="cuda", dtype=dtype)
        ids = torch.randint(5, 1000, (4, 128), generator=torch.Generator().manual_seed(0))
        iv = vector_at_half_depth(model, 0.5)
        found[dtype] = [logits(model, ids), logits(model, ids, iv)]
        del model
        gc.collect()
        torch.cuda.empty_cache()
    (base, steered), (base_16, steered_16) = found["float32"], found["bfloat16"]
    print(
        f"  logits in bfloat16 beside float32: relative error {error(base_16, base):.1e} (wanted: at most {LOGITS:.0e})"
    )
    print(f"  steered: {error(steered_16, steered):.1e} (wanted: at most {LOGITS:.0e})")
    effect = error(steered_16 - base_16, steered - base)
    print(f"  what the steering changes: {effect:.1e} (wanted: at most {EFFECT:.0e})")


def speed(folder: Path, *, new_tokens: int, rounds: int) -> None:
    """Tokens per second, interleaved."""
    model = ms.load_model(str(folder), device="cuda", dtype="bfloat16")
    hf: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda").eval()
    iv = vector_at_half_depth(model, 0.1)
    for batch in (1, 32):
        prompt = torch.randint(5, 1000, (batch, 24), generator=torch.Generator().manual_seed(0)).cuda()
        how: dict[str, Any] = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
        how |= {"attention_mask": torch.ones_like(prompt), "pad_token_id": 0}

        def plain(prompt: Any = prompt, how: Any = how, **more: Any) -> None:
            hf.generate(prompt, **how, **more)

        def steered(prompt: Any = prompt) -> None:
            ms.generate(model, prompt.tolist(), iv, max_new_tokens=new_tokens, stop_tokens=(), batch_size=64)

        ways = {
            "hf.generate": plain,
            "mechsteer.generate, steered": steered,
            "hf.generate, static cache, compiled": lambda plain=plain: plain(cache_implementation="static"),
        }
        for call in ways.values():
            call()
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, call in ways.items():
                found[name].append(seconds(call))
        first = statistics.median(found["hf.generate"])
        for name, times in found.items():
            taken = statistics.median(times)
            print(
                f"  batch {batch:3}  {name:36} {batch * new_tokens / taken:9.0f} tokens/s  {first / taken:.2f}",
                flush=True,
            )


@torch.no_grad()
def divided(path: Path) -> float | None:
    """Largest difference of steered logits between one GPU and two that share the blocks; None where there are no two."""
    if torch.cuda.device_count() < 2:
        print("  device_map over two GPUs  not here: this machine has one")
        return None
    alone = ms.load_model(path, device="cuda:0")
    n_layers, tokens = alone.cfg.n_layers, torch.arange(3, 67)[None]
    places = {f"model.layers.{i}": int(i >= n_layers // 2) for i in range(n_layers)}
    # the embedding and the unembedding may share one tensor, which lies once
    ends = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 1, "lm_head": 0}
    both = ms.load_model(path, device_map=ends | places)
    vector, logits = torch.randn(alone.cfg.d_model, generator=torch.Generator().manual_seed(0)), []
    for model in (alone, both):
        device = ms.models.backend_of(model).device_at(n_layers - 1)
        with ms.steer(model, ms.Intervention(ms.adapters.Static(vector).to(device), n_layers - 1)):
            logits.append(model(tokens.to("cuda:0")).cpu())
    difference = float((logits[0] - logits[1]).abs().max())
    print(f"  device_map over two GPUs  steered logits differ by {difference:.1e}", flush=True)
    return difference


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="steering on a GPU: agreement and speed")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("PyTorch sees no CUDA device here", file=sys.stderr)
        raise SystemExit(2)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print("pocket, GPU beside processor")
    pocket()
    with tempfile.TemporaryDirectory() as folder:
        path = random_folder(Path(folder))
        print("0.6B shape, random", flush=True)
        parity(path)
        divided(path)
        speed(path, new_tokens=arguments.new_tokens, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
