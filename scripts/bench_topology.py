"""How fast H0 is, against ripser and against its own floor, and H0 with H1 by both engines; interleaved in one run.

    python scripts/bench_topology.py [--batch 64 --points 128 --width 1024 --rounds 7]
                                     [--loop-points 512 --loop-width 64]

The floor is the Gram product alone, on points that are centred already: in float32, and in float64, which is what
exact lengths need on activations. Times are medians (and minima) over rounds in which every contender runs once warm.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ripser import ripser  # noqa: TID251  the contender

from mechsteer.signals.spanning import StreamingH0
from mechsteer.topology import h0_batch, summarize
from mechsteer.topology.gudhi_engine import is_installed


def interleaved(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds per call [rounds] of each contender, one timed call each per round.

    Before each lies a pause and an untimed call: OpenBLAS, which ripser calls, keeps a core spinning for some 30 ms
    after its last product and would slow down whoever comes next; caches and threads are everybody's own this way.
    """
    seconds = {name: np.empty(rounds) for name in contenders}
    for index in range(rounds):
        for name, contender in contenders.items():
            time.sleep(0.1)
            contender()
            start = time.perf_counter()
            contender()
            seconds[name][index] = time.perf_counter() - start
    return seconds


def diagrams(points: np.ndarray, maxdim: int) -> list[np.ndarray]:
    """ripser's, without its warning of more columns than rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The input (point cloud has more columns|matrix is square)")
        return ripser(points, maxdim=maxdim)["dgms"]


def bench_h0(batch: int = 64, n_points: int = 128, d_model: int = 1024, rounds: int = 7) -> dict[str, Any]:
    """Milliseconds per batch, ratios, and the largest relative difference from ripser's H0 deaths."""
    points = np.random.default_rng(0).standard_normal((batch, n_points, d_model)).astype(np.float32)
    centred = torch.from_numpy(points - points.mean(1, keepdims=True))
    double = centred.double()

    def by_ripser() -> list[np.ndarray]:
        return [np.sort(diagrams(cloud, maxdim=0)[0][:-1, 1]) for cloud in points]

    seconds = interleaved(
        {
            "ripser": by_ripser,
            "h0_batch": lambda: h0_batch(points),
            "gram_float32": lambda: torch.bmm(centred, centred.transpose(1, 2)),
            "gram_float64": lambda: torch.bmm(double, double.transpose(1, 2)),
        },
        rounds,
    )
    median = {name: float(np.median(times) * 1e3) for name, times in seconds.items()}
    deaths = np.stack(by_ripser())
    return {
        "shape": [batch, n_points, d_model],
        "threads": torch.get_num_threads(),
        "median_ms": median,
        "min_ms": {name: float(times.min() * 1e3) for name, times in seconds.items()},
        "speedup_over_ripser": median["ripser"] / median["h0_batch"],
        "times_gram_float32": median["h0_batch"] / median["gram_float32"],
        "times_gram_float64": median["h0_batch"] / median["gram_float64"],
        "max_relative_difference": float(np.abs(h0_batch(points).bars / deaths - 1).max()),
        "streaming_ms_per_token": {window: bench_streaming(window, d_model) for window in (32, 64)},
    }


def bench_loops(n_points: int = 512, d_model: int = 64, rounds: int = 5) -> dict[str, Any]:
    """Milliseconds of H0 and H1 of one trajectory: ripser alone, and `summarize` by each engine, which has all distances in
    float64. The difference is of the sorted births and deaths of loops from ripser's, which are float32.
    """
    points = np.random.default_rng(0).standard_normal((n_points, d_model))
    engines = ("ripser", "gudhi") if is_installed() else ("ripser",)
    contenders: dict[str, Callable[[], Any]] = {"ripser": lambda: diagrams(points, maxdim=1)}
    for engine in engines:
        contenders[f"summarize, {engine}"] = lambda engine=engine: summarize(points, engine=engine)
    seconds = interleaved(contenders, rounds)
    loops = np.sort(diagrams(points, maxdim=1)[1], axis=0)
    summaries = [summarize(points, engine=engine) for engine in engines]
    found = [np.sort(each.h1.bars, axis=0) for each in summaries if each.h1 is not None]
    median = {name: float(np.median(times) * 1e3) for name, times in seconds.items()}
    return {
        "shape": [n_points, d_model],
        "threads": torch.get_num_threads(),
        "median_ms": median,
        "min_ms": {name: float(times.min() * 1e3) for name, times in seconds.items()},
        "speedup_over_ripser": median["ripser"] / median[f"summarize, {engines[-1]}"],
        "max_relative_difference": float(max(np.abs(bars / loops - 1).max() for bars in found)),
    }


def bench_streaming(window: int, d_model: int = 1024, n_tokens: int = 500) -> float:
    """Median milliseconds of one push and one entropy over a full window."""
    points = np.random.default_rng(0).standard_normal((window + n_tokens, d_model)).astype(np.float32)
    stream, seconds = StreamingH0(window), []
    for point in points:
        start = time.perf_counter()
        stream.push(point)
        _ = stream.entropy_nats
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[window:]) * 1e3)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--points", type=int, default=128)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--loop-points", type=int, default=512)
    parser.add_argument("--loop-width", type=int, default=64)
    args = parser.parse_args(argv)
    print(json.dumps(bench_h0(args.batch, args.points, args.width, args.rounds), indent=2))
    print(json.dumps(bench_loops(args.loop_points, args.loop_width, args.rounds), indent=2))


if __name__ == "__main__":
    main()
