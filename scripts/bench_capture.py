"""How long a capture takes, and how much memory, beside a plain Hugging Face forward.

    python scripts/bench_capture.py [model folder ...]

Time: capture of one middle layer (resid_post of the last block of the lower half) to disk, over a forward of
the whole Hugging Face model (default attention, logits of every position as it computes them by default) on
the same batches. Memory: peak resident memory of a capture of 2,000 prompts over that of 200, each in a
process of its own. Of the bundled model, a random one of 4 layers and d_model 512, and the folders given.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

import mechsteer as ms
from mechsteer.models import bundled_models

_MEDIUM = {"num_hidden_layers": 8, "hidden_size": 512, "intermediate_size": 1536, "vocab_size": 8192, "head_dim": 64}


def random_folder(folder: Path, settings: dict[str, Any]) -> Path:
    """A random Qwen3 model in Hugging Face format."""
    heads = settings["hidden_size"] // settings["head_dim"]
    config = Qwen3Config(**settings, num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=512)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def random_prompts(n_prompts: int, d_vocab: int, *, shortest: int = 40, longest: int = 120) -> list[list[int]]:
    """Token-id lists of varied lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(shortest, longest + 1, (n_prompts,), generator=generator).tolist()
    return [torch.randint(3, d_vocab, (n,), generator=generator).tolist() for n in lengths]


def time_ratio(source: Path, *, n_prompts: int = 512, batch_size: int = 16, repeats: int = 5) -> dict[str, Any]:
    """Seconds of the forward and of the capture, and their ratio: medians of `repeats` rounds, taken in turns."""
    hf = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    model = ms.load_model(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval())
    site = ms.Site(hf.config.num_hidden_layers // 2 - 1, "resid_post")
    prompts = sorted(random_prompts(n_prompts, hf.config.vocab_size), key=len)
    batches = [prompts[i : i + batch_size] for i in range(0, n_prompts, batch_size)]
    rounds, engine = [], ""
    for round_ in range(repeats + 1):  # the first warms up
        forward = _Stopwatch()
        with torch.no_grad():
            for batch in batches:
                longest = len(batch[-1])
                tokens = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
                mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
                hf(tokens, attention_mask=mask)
        forward.stop()
        with tempfile.TemporaryDirectory() as folder:
            captured = _Stopwatch()
            store = ms.capture(model, prompts, [site], path=folder, batch_size=batch_size, progress=False)
            captured.stop()
            engine = store.engine
        if round_:
            rounds.append((forward, captured))
    ratios = sorted(c.wall / f.wall for f, c in rounds)
    return {
        "model": source.name,
        "site": str(site),
        "engine": engine,
        "n_prompts": n_prompts,
        "hf_forward_s": statistics.median(f.wall for f, _ in rounds),
        "capture_s": statistics.median(c.wall for _, c in rounds),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "cpu_time_ratio": statistics.median(c.cpu / f.cpu for f, c in rounds),
    }


class _Stopwatch:
    """Wall and processor seconds; the latter do not count what other programs do."""

    def __init__(self) -> None:
        self.wall, self.cpu = -time.perf_counter(), -time.process_time()

    def stop(self) -> None:
        self.wall += time.perf_counter()
        self.cpu += time.process_time()


def peak_memory(source: Path, n_prompts: int) -> int:
    """Peak resident kilobytes of a process that captures `n_prompts` prompts."""
    command = [sys.executable, __file__, "--memory-of", str(n_prompts), str(source)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def capture_alone(source: Path, n_prompts: int) -> int:
    """Capture in this process; its peak resident kilobytes."""
    model = ms.load_model(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval())
    sites = [ms.Site(layer, "resid_post") for layer in range(model.cfg.n_layers)]
    with tempfile.TemporaryDirectory() as folder:
        store = ms.capture(model, random_prompts(n_prompts, model.cfg.d_vocab), sites, path=folder, progress=False)
        for site in store:
            for batch in store[site]:
                assert len(batch)
    try:  # not ru_maxrss, which begins at the peak of the process that started this one
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def main(argv: list[str] | None = None) -> None:
    """Print one JSON line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(capture_alone(args.models[0], args.memory_of))
        return
    with tempfile.TemporaryDirectory() as folder:
        sources = [bundled_models()["pocket"], random_folder(Path(folder) / "medium", _MEDIUM), *args.models]
        for source in sources:
            figures = time_ratio(source, n_prompts=args.prompts)
            if args.memory:
                few, many = (peak_memory(source, n) for n in (200, 2000))
                figures |= {"peak_kb_200": few, "peak_kb_2000": many, "memory_ratio": many / few}
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
