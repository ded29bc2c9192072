"""What the recurrent controller costs in generation: multiply-adds, and seconds beside the unsteered model.

    python scripts/bench_gru.py [--forms NAME ... --rounds 7 --new-tokens 12]

On a random model of the shape of a 0.6B Qwen3, one prompt, the controller at a depth of 0.15 (layer 4 of 28); steered and
unsteered interleaved in one run. Wanted: at most 2 % of the multiply-adds and 5 % of the time; and for exact H0 entropy of
the last 64 tokens at most 1 % of a token's forward. Then the same on the bundled model, where nothing is wanted: a
controller as large as the model is no small part of it. Every form: --forms with all their names.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from bench_generation import SHAPE_06B
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.initialization import no_init_weights

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
DEFAULT_FORMS = ("lowrank", "lowrank, H0 of 64")
SCOPE = ms.TokenScope.generated(include_last_prompt=True)
DEPTH = 0.15


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def random_model() -> Any:
    """A random model of the 0.6B shape, made in memory in seconds: one block of normal numbers fills every matrix."""
    with no_init_weights():
        hf = Qwen3ForCausalLM(Qwen3Config(**SHAPE_06B, bos_token_id=0, eos_token_id=0))
    hf.tie_weights()
    block = 0.02 * torch.randn(2**20 + 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in hf.parameters():
            if p.ndim < 2:
                p.fill_(1)
                continue
            for part in p.reshape(-1).split(len(block)):
                part.copy_(block[: len(part)])
    return ms.load_model(hf)


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


def generation(model: Any, forms: Sequence[str], *, new_tokens: int, rounds: int) -> float:
    """Print a row per form; the median milliseconds of an unsteered token."""
    prompt = torch.randint(
        5, min(1000, model.cfg.d_vocab), (1, 24), generator=torch.Generator().manual_seed(0)
    ).tolist()

    def run(*steering: ms.Intervention) -> None:
        out = ms.generate(model, prompt, steering, max_new_tokens=new_tokens, stop_tokens=())
        assert out.engine == "twin"
        assert len(out.tokens[0]) == new_tokens

    steerings = {name: made(model, FORMS[name]) for name in forms}
    ratios, alone = interleaved(run, steerings, rounds)
    whole = model_multiply_adds(model)
    for name, iv in steerings.items():
        gru: Any = iv.adapter
        share = controller_multiply_adds(gru, model.cfg.d_model) / whole
        print(
            f"  {name:20} {n_parameters(gru):9,} parameters  {share:8.3%} of the multiply-adds  time x "
            f"{statistics.median(ratios[name]):.3f} ({min(ratios[name]):.3f} to {max(ratios[name]):.3f})",
            flush=True,
        )
    return 1000 * statistics.median(alone) / new_tokens


def interleaved(
    run: Callable[..., None], steerings: Mapping[str, ms.Intervention], rounds: int
) -> tuple[dict[str, list[float]], list[float]]:
    """(steered / the mean of the unsteered runs before and after it, by name; seconds of the unsteered)."""
    ratios: dict[str, list[float]] = {name: [] for name in steerings}
    run()
    for iv in steerings.values():
        run(iv)
    alone = [seconds(run)]
    for _ in range(rounds):
        for name, iv in steerings.items():
            steered = seconds(lambda iv=iv: run(iv))
            alone.append(seconds(run))
            ratios[name].append(2 * steered / (alone[-2] + alone[-1]))
    return ratios, alone


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
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(DEFAULT_FORMS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=12)
    arguments = parser.parse_args(argv)
    how = {"new_tokens": arguments.new_tokens, "rounds": arguments.rounds}
    print(
        f"steered by a controller / unsteered, {torch.get_num_threads()} threads (wanted: 2 % of multiply-adds, time x 1.05)"
    )
    print("0.6B shape, random", flush=True)
    token = generation(random_model(), arguments.forms, **how)
    h0 = streaming()
    print(
        f"  exact H0 of 64 tokens: {h0:.3f} ms a token, {h0 / token:.2%} of its forward ({token:.1f} ms; wanted: at most 1 %)"
    )
    print("pocket", flush=True)
    print(f"  an unsteered token: {generation(ms.load_model('pocket'), arguments.forms, **how):.2f} ms")


if __name__ == "__main__":
    main()
