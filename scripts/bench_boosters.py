"""What a booster costs, in generation and in training, each beside its counterpart and interleaved in one run.

    python scripts/bench_boosters.py [--rounds 9]

Generation: steered / unsteered on pocket, one prompt and 64. Wanted: at most 1.05 for drab, whose summary and network
are of the prefill, and at most 1.10 for a dictionary with look-back, whose router runs at every token.

Training: a step restarted from what is kept / the same step whole, of each booster beside a static vector (the shapes of
`bench_training.py`); and the seconds of 300 samples x 5 epochs on pocket. Wanted: at most 60 s.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import bench_training
import torch

import mechsteer as ms
from mechsteer.adapters import Adapter, size
from mechsteer.runtime.batches import Sample, make_batches
from mechsteer.steering.presets import untrained
from mechsteer.training import FitConfig, fit

SCOPE = ms.TokenScope.generated(include_last_prompt=True)
NEW_TOKENS = 60
BOOSTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("static", {}),
    "drab": ("drab", {}),
    "drab, hybrid": ("drab", {"form": "hybrid"}),
    "dictionary per prompt": ("dictionary", {"look_back": False}),
    "dictionary, look-back": ("dictionary", {}),
    "dictionary, look-back to embeddings": ("dictionary", {"pooling": "embedding"}),
    "gated": ("gated", {}),
}
WANTED = {"drab": 1.05, "dictionary, look-back": 1.10}
DEPTH = 0.5


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def made(model: Any, name: str) -> ms.Intervention:
    """A booster at half depth whose delta is small and not zero."""
    kind, options = BOOSTERS[name]
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        iv = untrained(model, kind, DEPTH, scope=SCOPE, **options)
    with torch.no_grad():
        for p in iv.adapter.parameters():
            p.add_(1e-3 * torch.randn(p.shape, generator=generator))
    return iv


def generation(rounds: int) -> dict[str, float]:
    """Median of steered / unsteered by "<name> <batch>", each steered beside its own unsteered."""
    model, ratios = ms.load_model("pocket"), {}
    for batch in (1, 64):
        prompts = torch.randint(5, 400, (batch, 24), generator=torch.Generator().manual_seed(0)).tolist()

        def run(*steering: ms.Intervention, prompts: list[list[int]] = prompts) -> None:
            out = ms.generate(model, prompts, steering, max_new_tokens=NEW_TOKENS, stop_tokens=(), batch_size=64)
            assert len(out.tokens[0]) == NEW_TOKENS
            assert out.engine == "twin"

        steerings = {name: made(model, name) for name in BOOSTERS}
        for iv in steerings.values():
            run(iv)
        found: dict[str, list[float]] = {name: [] for name in steerings}
        for _ in range(rounds):
            for name, iv in steerings.items():
                plain, steered, again = seconds(run), seconds(lambda iv=iv: run(iv)), seconds(run)
                found[name].append(2 * steered / (plain + again))
        for name, values in found.items():
            ratios[f"{name} {batch}"] = statistics.median(values)
            wanted = f"  (wanted: at most {WANTED[name]:.2f})" if name in WANTED else ""
            print(f"  {name:36} batch {batch:3}  {ratios[f'{name} {batch}']:.3f}{wanted}", flush=True)
    return ratios


def restarts(rounds: int) -> dict[str, float]:
    """Median of restarted / whole by name."""
    model = bench_training.build()
    ids = torch.randint(0, bench_training.D_VOCAB, (8, 128), generator=torch.Generator().manual_seed(2)).tolist()
    batch = make_batches(model, [(row[:64], row[64:]) for row in ids], 8)[0]
    variants = {name: bench_training.steps(model, batch, made(model, name).adapter, DEPTH) for name in BOOSTERS}
    found: dict[str, list[float]] = {name: [] for name in BOOSTERS}
    for _ in range(rounds):
        for name, step in variants.items():
            whole = seconds(step["whole"])
            found[name].append(seconds(step["recipe"]) / whole)
    ratios = {name: statistics.median(values) for name, values in found.items()}
    for name, ratio in ratios.items():
        share = (1 - ratio) / (1 - ratios["static"])
        print(f"  {name:36} {ratio:.3f} of the whole step; {share:.0%} of a static vector's saving")
    return ratios


def training(n_samples: int = 300, epochs: int = 5) -> dict[str, float]:
    """Seconds of `fit` by name."""
    model, taken = ms.load_model("pocket"), {}
    rows = ms.pocket.problems(n_samples, seed=0)
    rng = random.Random(0)
    samples = [Sample(row.prompt, ms.pocket.traces(row, rng, style="careful")) for row in rows]
    for name in BOOSTERS:
        iv: ms.Intervention = made(model, name)
        adapter: Adapter = iv.adapter
        result = fit(model, iv, samples, FitConfig(epochs=epochs), progress=False)
        taken[name] = result.seconds
        before, after = (epoch.train["loss"] for epoch in (result.history[0], result.history[-1]) if epoch.train)
        print(f"  {name:36} {taken[name]:5.1f} s  loss {before:.3f} to {after:.3f}  {size(adapter)}", flush=True)
    return taken


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args(argv)
    print(f"steered generation / unsteered: pocket, {NEW_TOKENS} tokens, {torch.get_num_threads()} threads")
    generation(arguments.rounds)
    print("a training step from what is kept / whole")
    restarts(arguments.rounds)
    print("300 samples x 5 epochs on pocket (wanted: at most 60 s)")
    training()


if __name__ == "__main__":
    main()
