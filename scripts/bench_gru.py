"""What the recurrent controller costs in generation: multiply-adds, and seconds beside the unsteered model.

    python scripts/bench_gru.py [--rounds 5 --new-tokens 16]

On a random model of the shape of a 0.6B Qwen3, one prompt, the controller at a depth of 0.15 (layer 4 of 28); steered and
unsteered interleaved in one run. Wanted: at most 2 % of the multiply-adds and 5 % of the time; and for exact H0 entropy of
the last 64 tokens at most 1 % of a token's forward. Then the same on the bundled model, where nothing is wanted: a
controller as large as the model is no small part of it.
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
from bench_generation import random_folder

import mechsteer as ms
from mechsteer.adapters import Gru, n_parameters
from mechsteer.signals import WindowedH0
from mechsteer.steering.presets import untrained

FORMS: dict[str, dict[str, Any]] = {
    "lowrank": {},
    "lowrank, plan": {"plan": True},
    "hyper": {"decoder": "hyper"},
    "lowrank, H0 of 64": {"h0": True, "signal_window": 64},
}
SCOPE = ms.TokenScope.generated(include_last_prompt=True)
DEPTH = 0.15


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def made(model: Any, options: dict[str, Any]) -> ms.Intervention:
    """A controller whose delta is small and not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        iv = untrained(model, "gru", DEPTH, scope=SCOPE, **options)
        with torch.no_grad():
            for p in iv.adapter.parameters():
                p.add_(1e-3 * torch.randn_like(p))
    return iv


def model_multiply_adds(model: Any) -> int:
    """Per token, attention over the context left out: each weight of a matrix once, the embedding's not."""
    hf = model.original_model
    inner = sum(
        p.numel() for name, p in hf.named_parameters() if p.ndim == 2 and "embed" not in name and "lm_head" not in name
    )
    return inner + hf.get_output_embeddings().weight.numel()


def controller_multiply_adds(gru: Gru, d_model: int) -> int:
    """Per token: each parameter once, and the signals' distances and moments."""
    windows = {signal.name: signal.window for signal in gru.signals.signals}
    per_window = sum(windows[name] for name in ("variance", "h0_entropy") if name in windows)
    return n_parameters(gru) + d_model * (2 * per_window + 5)


def generation(model: Any, *, new_tokens: int, rounds: int) -> float:
    """Print a row per form; the median milliseconds of an unsteered token."""
    prompt = torch.randint(
        5, min(1000, model.cfg.d_vocab), (1, 24), generator=torch.Generator().manual_seed(0)
    ).tolist()

    def run(*steering: ms.Intervention) -> None:
        out = ms.generate(model, prompt, steering, max_new_tokens=new_tokens, stop_tokens=())
        assert out.engine == "twin"
        assert len(out.tokens[0]) == new_tokens

    steerings = {name: made(model, options) for name, options in FORMS.items()}
    found: dict[str, list[float]] = {name: [] for name in steerings}
    alone: list[float] = []
    for iv in steerings.values():
        run(iv)
    for _ in range(rounds):
        for name, iv in steerings.items():
            before, steered, after = seconds(run), seconds(lambda iv=iv: run(iv)), seconds(run)
            found[name].append(2 * steered / (before + after))
            alone += [before, after]
    whole = model_multiply_adds(model)
    for name, iv in steerings.items():
        gru: Any = iv.adapter
        share = controller_multiply_adds(gru, model.cfg.d_model) / whole
        ratios = found[name]
        print(
            f"  {name:20} {n_parameters(gru):9,} parameters  {share:8.3%} of the multiply-adds  time x "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
    return 1000 * statistics.median(alone) / new_tokens


def streaming(window: int = 64, d_model: int = 1024, n_tokens: int = 300) -> float:
    """Median milliseconds of one token of exact windowed H0, the window full."""
    signal, state, taken = WindowedH0(window), None, []
    for point in torch.randn(n_tokens, 1, 1, d_model, generator=torch.Generator().manual_seed(0)):
        began = time.perf_counter()
        _, state = signal(point, state=state)
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken[window:])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=16)
    arguments = parser.parse_args(argv)
    how = {"new_tokens": arguments.new_tokens, "rounds": arguments.rounds}
    print(
        f"steered by a controller / unsteered, {torch.get_num_threads()} threads (wanted: 2 % of multiply-adds, time x 1.05)"
    )
    with tempfile.TemporaryDirectory() as folder:
        print("0.6B shape, random")
        token = generation(ms.load_model(str(random_folder(Path(folder)))), **how)
    h0 = streaming()
    print(
        f"  exact H0 of 64 tokens: {h0:.3f} ms a token, {h0 / token:.2%} of its forward ({token:.1f} ms; wanted: at most 1 %)"
    )
    print("pocket")
    print(f"  an unsteered token: {generation(ms.load_model('pocket'), **how):.2f} ms")


if __name__ == "__main__":
    main()
