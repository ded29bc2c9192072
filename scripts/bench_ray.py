"""Captures by Ray workers: what the second one brings, what Ray costs, what the driver's memory does.

    python scripts/bench_ray.py [--seconds 60]

A random model of 8 blocks and d_model 512, one torch thread each. Throughput is that of the middle of a run (from a
fifth of the shards to four fifths), when models are loaded: of two workers over twice that of one, and of one over a
capture in this process. Beside it whole seconds, start of Ray and loading included; and the peak memory of the driver
for all prompts over that for a quarter of them, each in a process of its own.
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


def run(source: Path, n_prompts: int, workers: int | None, store: Path) -> tuple[float, float]:
    """(prompts a second in the middle of the run, seconds of all of it)."""
    torch.set_num_threads(1)
    model = ms.load_model(source)
    prompts = random_prompts(n_prompts, model.cfg.d_vocab)
    began = time.perf_counter()
    size = sum(map(len, prompts)) // N_SHARDS + 1
    ms.capture(model, prompts, [3], path=store, shard_size=size, workers=workers, progress=False)
    seconds = time.perf_counter() - began
    ended = sorted(path.stat().st_mtime for path in store.glob("shard-*"))
    low, high = len(ended) // 5, len(ended) * 4 // 5
    return n_prompts * (high - low) / len(ended) / (ended[high] - ended[low]), seconds


def of_own(source: Path, n_prompts: int, workers: int | None) -> dict[str, float]:
    """A run in a process of its own: throughput, seconds, peak megabytes of the driver."""
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, __file__, "--child", str(source), str(n_prompts), str(workers or 0), f"{store}/acts"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return json.loads(done.stdout.splitlines()[-1])


def child(source: str, n_prompts: str, workers: str, store: str) -> None:
    rate, seconds = run(Path(source), int(n_prompts), int(workers) or None, Path(store))
    status = Path("/proc/self/status").read_text("utf-8")
    peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"rate": rate, "seconds": seconds, "peak": peak}))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure captures by Ray workers.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a run in this process")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        child(*arguments.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = random_folder(Path(folder) / "medium", _MEDIUM)
        n = int(of_own(source, FIRST, None)["rate"] * arguments.seconds)
        here, one, two = (of_own(source, n, workers) for workers in (None, 1, 2))
        quarter = of_own(source, n // 4, 1)
    told = [("in this process", here), ("1 worker", one), ("2 workers", two)]
    for name, found in told:
        print(f"{name:16} {found['rate']:7.1f} prompts/s, {found['seconds']:6.1f} s in all ({n} prompts)")
    print(f"two workers over twice one: {two['rate'] / one['rate'] / 2:.3f}")
    print(f"one worker over this process: {one['rate'] / here['rate']:.3f} when it runs")
    print(f"Ray and loading cost {one['seconds'] - here['seconds']:.1f} s")
    print(f"driver's peak: {one['peak']:.0f} MB for all, {quarter['peak']:.0f} MB for a quarter of the prompts")


if __name__ == "__main__":
    main()
