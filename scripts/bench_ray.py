"""Captures by Ray workers: what the second one brings, what Ray costs, what the driver's memory does.

    python scripts/bench_ray.py [--seconds 60]

A random model of 8 blocks and d_model 512, one torch thread each. Throughput is that of the middle of a run (from a
fifth of the shards to four fifths), when models are loaded: of two workers over twice that of one, and of one over a
capture in this process. What two processors of this machine allow is told beside it: two plain processes at once, each
with a capture of its own and no Ray, over twice one. Until workers have begun the driver writes shards, for some ten seconds:
a run of much less than a minute has these in its middle. Then whole seconds, start of Ray and loading included; and the
peak memory of the driver while it captures all prompts, over that for a quarter of them. Each run is a process of its
own, on an idle machine of at least two processors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_capture import _MEDIUM, random_folder, random_prompts

import mechsteer as ms

N_SHARDS = 60
FIRST = 200  # prompts, to know how many a run of so many seconds has


def run(source: Path, n_prompts: int, workers: int | None, n_shards: int, store: Path) -> tuple[float, float]:
    """(prompts a second in the middle of the run, seconds of all of it)."""
    torch.set_num_threads(1)
    model = ms.load_model(source)
    prompts = random_prompts(n_prompts, model.cfg.d_vocab)
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the peak begins anew: loading is not of it
    began = time.perf_counter()
    size = sum(map(len, prompts)) // n_shards + 1
    ms.capture(model, prompts, [3], path=store, shard_size=size, workers=workers, progress=False)
    seconds = time.perf_counter() - began
    ended = sorted(path.stat().st_mtime for path in store.glob("shard-*"))
    low, high = len(ended) // 5, len(ended) * 4 // 5
    return n_prompts * (high - low) / len(ended) / (ended[high] - ended[low]), seconds


def of_own(
    source: Path, n_prompts: int, workers: int | None, *, at_once: int = 1, n_shards: int = N_SHARDS
) -> dict[str, float]:
    """Runs `at_once`, each in a process of its own: throughput of all, seconds and peak megabytes of the last."""
    # no cluster but of this machine
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", str(source), str(n_prompts), str(workers or 0), str(n_shards)]
        started = [
            subprocess.Popen([*command, f"{folder}/{i}"], stdout=subprocess.PIPE, env=env) for i in range(at_once)
        ]
        told = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a run failed")
    found = [json.loads(text.splitlines()[-1]) for text in told]
    return found[-1] | {"rate": sum(one["rate"] for one in found)}


def child(source: str, n_prompts: str, workers: str, n_shards: str, store: str) -> None:
    rate, seconds = run(Path(source), int(n_prompts), int(workers) or None, int(n_shards), Path(store))
    status = Path("/proc/self/status").read_text("utf-8")
    peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"rate": rate, "seconds": seconds, "peak": peak}))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure captures by Ray workers.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a run in this process")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        child(*arguments.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = random_folder(Path(folder) / "medium", _MEDIUM)
        n = int(of_own(source, FIRST, None)["rate"] * arguments.seconds)
        runs = {
            "in this process": (n, None, 1),
            "1 worker": (n, 1, 1),
            "2 workers": (n, 2, 1),
            "2 processes without Ray": (n, None, 2),
            "1 worker, a quarter": (n // 4, 1, 1),
        }
        found = {}
        for name, (n_prompts, workers, at_once) in runs.items():
            n_shards = N_SHARDS * n_prompts // n  # of equal size: the driver writes one while workers begin
            found[name] = of_own(source, n_prompts, workers, at_once=at_once, n_shards=n_shards)
            rate, seconds = found[name]["rate"], found[name]["seconds"]
            print(f"{name:24} {rate:6.1f} prompts/s, {seconds:5.1f} s for {n_prompts} prompts each", flush=True)
    here, one, two, plain, quarter = found.values()
    print(f"two workers over twice one: {two['rate'] / one['rate'] / 2:.3f} (wanted: >= 0.9)")
    print(f"two processes without Ray over twice one: {plain['rate'] / here['rate'] / 2:.3f} (what the machine allows)")
    print(f"one worker over this process: {one['rate'] / here['rate']:.3f} when it runs (wanted: >= 0.95)")
    cost = one["seconds"] - here["seconds"]
    print(
        f"one worker takes {cost:.1f} s longer with start, loading and end: {cost / 60:.1%} of a minute (wanted: <= 5%)"
    )
    print(
        f"driver's peak: {one['peak']:.0f} MB for all, {quarter['peak']:.0f} MB for a quarter of the prompts, "
        f"{one['peak'] / quarter['peak']:.3f} of it (wanted: <= 1.05)"
    )


if __name__ == "__main__":
    main()
