"""Stages of a study of the small bundled model while nothing else runs, and while every processor is busy elsewhere.

    python scripts/bench_threads.py [--rounds 3]

In a row: one piece after another, each on all torch threads, as torch does it. Side by side, as a study does it: as many
pieces at once, each on one thread (`mechsteer.runtime.threads`). The stages are those of `mechsteer study preset=quick`
with three places for the adapter: traces (batches of 64), train (three trainings, and the choice among them on dev) and
evaluate (all arms); "busy" has one other process per processor that never waits. Busy in a row is measured once.
Wanted: side by side, idle, at most the time in a row; busy at most 2.5 times idle.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from mechsteer.configs.settings import explicit
from mechsteer.evaluation import evaluation, parts
from mechsteer.studies import run as runs
from mechsteer.studies.study import opened

SPIN = "while True: pass"
STAGES = ("traces", "train", "evaluate")
OPTIONS = {"preset": "quick", "layers": [0.34, 0.5, 0.67]}


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Every processor has something else to do."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextlib.contextmanager
def in_a_row() -> Iterator[None]:
    """One piece after another, also where the library would run them side by side."""
    with contextlib.ExitStack() as stack:
        for room in (runs, evaluation, parts):
            stack.enter_context(mock.patch.object(room, "side_by_side", return_value=contextlib.nullcontext()))
        yield


def seconds(folder: str, stage: str, how: Callable[[], Any], is_busy: bool) -> float:
    """Of one stage in a folder that has all it reads."""
    with opened(explicit(None, out=folder, **OPTIONS), again={stage}) as run:
        run.handed(run.stages[stage].declared, stage)  # what it reads and the model are there before the clock runs
        with busy() if is_busy else contextlib.nullcontext(), how():
            began = time.perf_counter()
            run.result(stage)
            return time.perf_counter() - began


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="a small model's work, idle and beside busy processors")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args(argv).rounds
    print(f"{torch.get_num_threads()} torch threads, {os.cpu_count()} processors; seconds, median of {rounds}")
    print("              in a row        side by side    side by side / in a row, idle   side by side, busy / idle")
    print("              idle    busy    idle    busy    wanted <= 1.0                   wanted <= 2.5")
    ways = {"row": in_a_row, "side": contextlib.nullcontext}
    with tempfile.TemporaryDirectory() as folder:
        for stage in STAGES:
            seconds(folder, stage, contextlib.nullcontext, False)  # untimed
            times: dict[tuple[str, bool], list[float]] = {}
            for turn in range(rounds):
                for key in ((label, is_busy) for is_busy in (False, True) for label in ways):
                    if key != ("row", True) or turn == 0:
                        times.setdefault(key, []).append(seconds(folder, stage, ways[key[0]], key[1]))
            told = {key: statistics.median(found) for key, found in times.items()}
            row, side = ([told[label, is_busy] for is_busy in (False, True)] for label in ("row", "side"))
            cells = "".join(f"{value:<8.1f}" for value in (*row, *side))
            print(f"  {stage:12}{cells}{side[0] / row[0]:<32.2f}{side[1] / side[0]:.2f}", flush=True)


if __name__ == "__main__":
    main()
